//! Reading the Leases that kubelets renew, one at a time and only in doubt: a
//! watch of all would cost two changes a second for every twenty nodes.

use agent_core::model::{Lease, NodeName, Timestamp};
use k8s_openapi::api::coordination::v1::Lease as Object;
use kube::Api as KubeApi;

use super::{Error, Writer};

/// Where Kubernetes keeps the nodes' Leases.
/// Source: kubernetes, `staging/src/k8s.io/api/core/v1/types.go`, `NamespaceNodeLease`.
const NAMESPACE: &str = "kube-node-lease";

/// How long a Lease lasts that does not say so, in milliseconds: the kubelet's
/// own default.
const LASTS_MS: u64 = 40_000;

impl Writer {
    /// Looks at a node's Lease. That it may not be read is an answer too; any
    /// other failure is none.
    pub async fn lease(&self, node: &NodeName) -> Result<Lease, Error> {
        let leases = KubeApi::<Object>::namespaced(self.api.client.clone(), NAMESPACE);
        let what = format!("get Lease {NAMESPACE}/{node}");
        match self.api.call(what, leases.get_opt(node.as_str())).await {
            Ok(Some(lease)) => Ok(read(lease)),
            Ok(None) => Ok(Lease::Missing),
            Err(Error::Denied { code, message, .. }) => {
                Ok(Lease::Denied(format!("denied ({code}): {message}")))
            }
            Err(error) => Err(error),
        }
    }
}

fn read(lease: Object) -> Lease {
    let spec = lease.spec.unwrap_or_default();
    let renewed = spec.renew_time.map_or(0, |at| at.0.as_millisecond());
    let lasts = spec
        .lease_duration_seconds
        .and_then(|s| u64::try_from(s).ok());
    Lease::Found {
        renewed: Timestamp(u64::try_from(renewed).unwrap_or(0)),
        lasts_ms: lasts.map_or(LASTS_MS, |seconds| seconds.saturating_mul(1_000)),
    }
}
