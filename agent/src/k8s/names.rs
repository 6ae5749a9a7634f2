//! Names that others rely on: stable once released.

/// Prefix of everything that is ours.
pub const PREFIX: &str = "lastgasp.dev/";

/// Pod annotation: name of the `NodeDeath`. With
/// [`ANNOTATION_REASON_CODE`] it says that a pod has been told.
pub const ANNOTATION_DEATH: &str = "lastgasp.dev/death";

/// Pod annotation: [`agent_core::model::ReasonCode`].
pub const ANNOTATION_REASON_CODE: &str = "lastgasp.dev/reason-code";

/// Node condition: the kernel panicked. `True` is the problem, as
/// node-problem-detector has it.
pub const CONDITION_PANIC: &str = "KernelPanic";

/// Node condition: the kernel of this boot had an oops and lived on.
pub const CONDITION_OOPS: &str = "KernelOops";

/// Node condition: something is switched off against a bug of the kernel.
pub const CONDITION_MITIGATION: &str = "KernelMitigation";

/// Pod condition: the node under the pod died.
pub const POD_CONDITION: &str = "lastgasp.dev/NodeDied";

/// Node taint, with the reason code as value and effect `NoSchedule`.
pub const TAINT: &str = "lastgasp.dev/node-dead";

/// Effect of [`TAINT`].
pub(super) const TAINT_EFFECT: &str = "NoSchedule";

/// Who we are in `managedFields`.
pub const FIELD_MANAGER: &str = "lastgasp-annotator";

/// Who we are in events.
pub(super) const REPORTER: &str = "lastgasp.dev/annotator";

/// Annotation that marks the API server's copy of a static pod.
/// Source: kubernetes, `pkg/kubelet/types/pod_update.go`.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
