//! `deploy/` as a user would apply it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{GroupVersionKind, TypeMeta};
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client};

/// Where the manifests are.
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");

/// In the order of `deploy/kustomization.yaml`.
const FILES: [&str; 4] = [
    "namespaces.yaml",
    "crd.yaml",
    "annotator.yaml",
    "agent.yaml",
];

/// Every object of `deploy/`.
pub fn documents() -> Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for file in FILES {
        let path = Path::new(DEPLOY).join(file);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let object = serde::Deserialize::deserialize(document)
                .with_context(|| format!("{} holds what is no object", path.display()))?;
            objects.push(object);
        }
    }
    Ok(objects)
}

/// Applies `deploy/`; the API server's own checks are the test of it.
pub async fn apply(client: &Client) -> Result<Vec<DynamicObject>> {
    let mut applied = Vec::new();
    for object in documents()? {
        let types: &TypeMeta = object.types.as_ref().context("an object without kind")?;
        let gvk = GroupVersionKind::try_from(types).context("an odd apiVersion")?;
        let (resource, capabilities) = pinned_kind(client, &gvk).await?;
        let api: Api<DynamicObject> = match (capabilities.scope, &object.metadata.namespace) {
            (Scope::Namespaced, Some(namespace)) => {
                Api::namespaced_with(client.clone(), namespace, &resource)
            }
            _ => Api::all_with(client.clone(), &resource),
        };
        let name = object.metadata.name.clone().unwrap_or_default();
        // Strict: a field that the server does not know is our mistake.
        let mut params = PatchParams::apply("kubectl").force();
        params.field_validation = Some(kube::api::ValidationDirective::Strict);
        let done = api
            .patch(&name, &params, &Patch::Apply(&object))
            .await
            .with_context(|| format!("{} {name} of deploy/ is refused", gvk.kind))?;
        applied.push(done);
    }
    Ok(applied)
}
