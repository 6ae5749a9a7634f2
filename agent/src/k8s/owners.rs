//! Whose pods they were, as people know it: a Deployment rather than the
//! ReplicaSet that it made this week, a CronJob rather than tonight's Job.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api as KubeApi, Resource};
use serde::de::DeserializeOwned;

use super::Error;
use super::client::Api;
use super::pods::Owner;

/// The workload that people look at, given a pod's controller.
///
/// Only the two kinds that others make are looked up, with one request each
/// and one step up: whatever made them (a Deployment, an Argo Rollout, a
/// CronJob, a JobSet) is named in the object itself, and needs no right of its
/// own. Every other controller (a StatefulSet, a CloneSet) is what people made.
/// Where the object is gone, or must not be read, the pod's controller it is.
pub(super) async fn workload(api: &Api, namespace: &str, owner: Owner) -> Result<Owner, Error> {
    let found = match (owner.api_version.as_str(), owner.kind.as_str()) {
        ("apps/v1", "ReplicaSet") => metadata::<ReplicaSet>(api, namespace, &owner).await,
        ("batch/v1", "Job") => metadata::<Job>(api, namespace, &owner).await,
        _ => return Ok(owner),
    };
    match found {
        Ok(metadata) => Ok(above(&metadata, &owner).unwrap_or(owner)),
        Err(Error::NotFound { .. } | Error::Denied { .. } | Error::Refused { .. }) => Ok(owner),
        // Another try may know more; two tries that differ would write two events.
        Err(error) => Err(error),
    }
}

async fn metadata<K>(api: &Api, namespace: &str, owner: &Owner) -> Result<ObjectMeta, Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + Debug + DeserializeOwned,
{
    let objects = KubeApi::<K>::namespaced(api.client.clone(), namespace);
    let what = format!("get {} {namespace}/{}", owner.kind, owner.name);
    let found = api.call(what, objects.get_metadata(&owner.name)).await?;
    Ok(found.metadata)
}

/// The controller of an object, if the object is the one that was meant.
fn above(metadata: &ObjectMeta, owner: &Owner) -> Option<Owner> {
    if metadata.uid.as_deref() != Some(owner.uid.as_str()) {
        return None;
    }
    let mut owners = metadata.owner_references.iter().flatten();
    let above = owners.find(|above| above.controller == Some(true))?;
    Some(Owner {
        api_version: above.api_version.clone(),
        kind: above.kind.clone(),
        name: above.name.clone(),
        uid: above.uid.clone(),
    })
}
