//! `deploy/` as a user would apply it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{GroupVersionKind, TypeMeta};
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client};
use serde::Deserialize;

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

#[derive(Deserialize)]
struct Component {
    patches: Vec<ComponentPatch>,
}

#[derive(Deserialize)]
struct ComponentPatch {
    target: Target,
    /// YAML of a JSON patch.
    patch: String,
}

#[derive(Deserialize)]
struct Target {
    kind: String,
    name: String,
}

/// Every object of `deploy/` with one of the components there named beside it, as
/// kustomize puts them together.
pub fn documents_with(component: &str) -> Result<Vec<DynamicObject>> {
    let file = Path::new(DEPLOY).join(component).join("kustomization.yaml");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let component: Component = serde_yaml_ng::from_str(&text)
        .with_context(|| format!("{} is no component", file.display()))?;
    let mut objects = documents()?;
    for ComponentPatch { target, patch } in component.patches {
        let Target { kind, name } = target;
        let is_meant = |object: &&mut DynamicObject| {
            let of_kind = object.types.as_ref().is_some_and(|t| t.kind == kind);
            of_kind && object.metadata.name.as_deref() == Some(&name)
        };
        let object = objects.iter_mut().find(is_meant);
        let object = object.with_context(|| format!("deploy/ has no {kind} {name} to patch"))?;
        let changes: json_patch::Patch = serde_yaml_ng::from_str(&patch)
            .with_context(|| format!("the patch of {kind} {name} is none"))?;
        let mut value = serde_json::to_value(&*object)?;
        json_patch::patch(&mut value, &changes)
            .with_context(|| format!("{kind} {name} cannot be patched so"))?;
        *object = serde_json::from_value(value)?;
    }
    Ok(objects)
}

/// Applies objects; the API server's own checks are the test of them.
pub async fn apply(client: &Client, objects: Vec<DynamicObject>) -> Result<Vec<DynamicObject>> {
    let mut applied = Vec::new();
    for object in objects {
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
