//! The addresses of the nodes, for a channel that has no other proof.

use std::net::IpAddr;

use kube::api::{ListParams, Request};
use serde::Deserialize;

use super::Error;
use super::client::Api;

/// Nodes in one answer: a Node object is some ten kilobytes, of which this
/// takes a few bytes.
const PAGE: u32 = 250;

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<Node>,
}

#[derive(Default, Deserialize)]
struct ListMeta {
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Node {
    metadata: Meta,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    name: String,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

/// Every node's name with each of its internal addresses.
pub(super) async fn list(api: &Api) -> Result<Vec<(String, IpAddr)>, Error> {
    let mut found = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let ask = async {
            let request = Request::new("/api/v1/nodes").list(&params);
            let request = request.map_err(kube::Error::BuildRequest)?;
            api.client.request::<List>(request).await
        };
        let list = api.call("list nodes", ask).await?;
        for node in list.items {
            let internal = node
                .status
                .addresses
                .iter()
                .filter(|a| a.kind == "InternalIP")
                .filter_map(|a| a.address.parse().ok());
            found.extend(internal.map(|ip| (node.metadata.name.clone(), ip)));
        }
        match list.metadata.next.filter(|next| !next.is_empty()) {
            Some(next) => params.continue_token = Some(next),
            None => return Ok(found),
        }
    }
}
