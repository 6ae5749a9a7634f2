//! `NodeDeath`: what is known of the end of one boot, kept after its pods and
//! even its node are gone.

use kube::{CustomResource, CustomResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who died. It never changes: what is found out later goes to the status.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "lastgasp.dev",
    version = "v1alpha1",
    kind = "NodeDeath",
    plural = "nodedeaths",
    shortname = "nd",
    category = "lastgasp",
    status = "NodeDeathStatus",
    derive = "PartialEq",
    doc = "One boot of one node that ended, why, and what became of its pods.",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Proof", type_ = "string", json_path = ".status.proof"),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.pods.annotated"),
    printcolumn(name = "Age", type_ = "date", json_path = ".spec.detectedAt"),
    printcolumn(
        name = "Fingerprint",
        type_ = "string",
        json_path = ".status.fingerprint",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.message",
        priority = 1
    )
)]
#[allow(
    clippy::duplicated_attributes,
    reason = "each printer column says its own type"
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self == oldSelf",
    "message": "a death does not change: what is learned later belongs to the status",
}]))]
pub struct NodeDeathSpec {
    /// Name of the node.
    #[schemars(length(min = 1, max = 253))]
    pub node_name: String,
    /// Uid of the Node object, if it was known when the death was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub node_uid: Option<String>,
    /// Boot id of the boot that ended (`/proc/sys/kernel/random/boot_id`).
    #[schemars(length(min = 36, max = 36))]
    pub boot_id: String,
    /// When the first evidence was received.
    #[schemars(extend("format" = "date-time"))]
    pub detected_at: String,
}

/// What has been found out, and done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeDeathStatus {
    /// The machine's word for why: `NullPointerDereference`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// One line for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// How sure that is: P0 (unauthenticated text) to P4 (the node is back
    /// with another boot, or provably off).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2))]
    pub proof: Option<String>,
    /// Kernel release of the boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub kernel_release: Option<String>,
    /// The kernel's own line that says why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub kernel_line: Option<String>,
    /// Function in which the CPU was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub fault_function: Option<String>,
    /// Kernel module of that function.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub module: Option<String>,
    /// The same in all deaths by this crash, on whatever kernel. Absent where the log was
    /// not decoded or the end was ordered: such have no more in common than the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub fingerprint: Option<String>,
    /// Known bugs that it looks like and that this kernel may have, the likeliest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub known_bugs: Vec<KnownBug>,
    /// The packet at which the kernel was about to stop, where that was seen beforehand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreseen: Option<Foreseen>,
    /// Who asked for it, of a restart and its like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<AskedBy>,
    /// Who had told that one, where it acts for others, as PID 1 does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told_by: Option<AskedBy>,
    /// When the node itself says that it happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub happened_at: Option<String>,
    /// What each channel said, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub evidence: Vec<Said>,
    /// Why each level of proof was reached, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub steps: Vec<ProofStep>,
    /// Where no channel spoke of the end: what each would have shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub channels: Vec<ChannelAccount>,
    /// What became of the node's pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodCounts>,
    /// `Confirmed`, `PodsAnnotated`, `NodeReturned`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"]
    ))]
    pub conditions: Vec<Condition>,
}

/// A known bug that a death looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KnownBug {
    /// `cve-2024-42281`, or words where no CVE was given.
    #[schemars(length(max = 64))]
    pub id: String,
    /// One line: what happens, and when.
    #[schemars(length(max = 256))]
    pub title: String,
    /// It looks like it in all that was recorded, and this kernel has the bug; else
    /// nothing rules it out.
    pub likely: bool,
    /// The first version that has the fix, of this kernel's series if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub fixed_in: Option<String>,
    /// What helps until the kernel is updated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub workaround: Option<String>,
    /// Where more is said of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reference: Option<String>,
}

/// A packet at which the kernel was about to stop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Foreseen {
    /// In words.
    #[schemars(length(max = 1024))]
    pub text: String,
    /// The kernel's own condition.
    #[schemars(length(max = 64))]
    pub condition: String,
    /// The network device that the packet leaves by.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16))]
    pub device: String,
    /// The device's driver; without hardware, its kind, such as veth. Absent where not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16))]
    pub driver: String,
    /// Its network namespace, as `/proc/PID/ns/net` has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_namespace: Option<u32>,
    /// Uid of the pod whose socket the packet comes from, by its cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub pod_uid: Option<String>,
    /// Functions that led there, innermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 256)))]
    pub stack: Vec<String>,
}

/// A process that asked for an end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AskedBy {
    /// In words, with how it told and how sure that is.
    #[schemars(length(max = 1024))]
    pub text: String,
    /// Its name; absent where it was no process.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub process: Option<String>,
    /// Process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i64>,
    /// User id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<i64>,
    /// Names of who started it, nearest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub parents: Vec<String>,
    /// The end of its cgroup's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub cgroup: Option<String>,
    /// Its pod: `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub pod: Option<String>,
    /// Its pod's uid.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub pod_uid: Option<String>,
}

/// One thing that one channel said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Said {
    /// By which way it came.
    #[schemars(length(max = 64))]
    pub channel: String,
    /// When it was received.
    #[schemars(extend("format" = "date-time"))]
    pub at: String,
    /// What it says.
    #[schemars(length(max = 1024))]
    pub text: String,
}

/// How sure we became, when, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProofStep {
    /// The level: P0 to P4.
    #[schemars(length(max = 2))]
    pub proof: String,
    /// When.
    #[schemars(extend("format" = "date-time"))]
    pub at: String,
    /// By whose evidence.
    #[schemars(length(max = 64))]
    pub by: String,
    /// Why.
    #[schemars(length(max = 1024))]
    pub text: String,
}

/// What one channel would have shown of the end, and what it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelAccount {
    /// The channel.
    #[schemars(length(max = 64))]
    pub channel: String,
    /// What it shows when it works.
    #[schemars(length(max = 1024))]
    pub would: String,
    /// What it did.
    #[schemars(length(max = 1024))]
    pub did: String,
}

/// Pods of the dead node, by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PodCounts {
    /// Carry the reason.
    pub annotated: u32,
    /// Were deleted or replaced before they could be told.
    pub gone: u32,
    /// The API server refuses to have them changed.
    pub refused: u32,
    /// Left alone: mirror, DaemonSet and finished pods.
    pub skipped: u32,
}

/// A condition as all Kubernetes objects have them (`metav1.Condition`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which condition.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 316))]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    #[schemars(extend("enum" = ["True", "False", "Unknown"]))]
    pub status: String,
    /// One CamelCase word.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// For people.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// When the status changed last.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
}

/// The resource definition as YAML: what `deploy/crd.yaml` holds.
pub fn crd_yaml() -> Result<String, serde_yaml_ng::Error> {
    let yaml = serde_yaml_ng::to_string(&NodeDeath::crd())?;
    Ok(format!(
        "# Generated from agent/src/k8s/crd.rs; a test holds the two together.\n{yaml}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_definition_is_the_one_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crd.yaml");
        let generated = crd_yaml().expect("a static type");
        if std::env::var_os("UPDATE_CRD").is_some() {
            std::fs::write(path, &generated).expect("deploy/ is writable");
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == generated,
            "deploy/crd.yaml differs from the code; run this test with UPDATE_CRD=1"
        );
    }

    #[test]
    fn the_definition_has_short_name_columns_status_and_immutability() {
        let crd = serde_json::to_value(NodeDeath::crd()).expect("a static type");
        let spec = &crd["spec"];
        assert_eq!(spec["scope"], "Cluster");
        assert_eq!(spec["names"]["shortNames"][0], "nd");
        let version = &spec["versions"][0];
        assert!(version["subresources"]["status"].is_object());
        let columns: Vec<&str> = version["additionalPrinterColumns"]
            .as_array()
            .expect("columns")
            .iter()
            .filter_map(|c| c["name"].as_str())
            .collect();
        assert_eq!(
            columns,
            [
                "Node",
                "Reason",
                "Proof",
                "Pods",
                "Age",
                "Fingerprint",
                "Message"
            ]
        );
        let wide = |name: &str| {
            let all = version["additionalPrinterColumns"].as_array();
            let column = all?.iter().find(|column| column["name"] == name)?;
            Some(column["priority"] == 1)
        };
        assert_eq!(
            (wide("Fingerprint"), wide("Age")),
            (Some(true), Some(false))
        );
        let properties = &version["schema"]["openAPIV3Schema"]["properties"];
        assert_eq!(
            properties["spec"]["x-kubernetes-validations"][0]["rule"],
            "self == oldSelf"
        );
        let conditions = &properties["status"]["properties"]["conditions"];
        assert_eq!(conditions["x-kubernetes-list-type"], "map");
        assert_eq!(conditions["x-kubernetes-list-map-keys"][0], "type");
    }
}
