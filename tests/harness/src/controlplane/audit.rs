//! The API server's own record of who wrote what.

use serde::Deserialize;

/// Records every write, and nothing of what is in it.
pub(super) const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
";

/// One write request that the API server answered
/// (`audit.k8s.io/v1` Event, the part that cases look at).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent {
    /// `create`, `patch`, ...
    pub verb: String,
    /// Who asked.
    pub user: AuditUser,
    /// What for.
    #[serde(default)]
    pub object_ref: ObjectRef,
    /// The answer.
    #[serde(default)]
    pub response_status: ResponseStatus,
}

/// Who made a request.
#[derive(Clone, Debug, Deserialize)]
pub struct AuditUser {
    /// User name as the API server knows it.
    pub username: String,
}

/// The object that a request was for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ObjectRef {
    /// `pods`, `nodes`, ...
    pub resource: String,
    /// `status`, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name, or empty.
    pub name: String,
}

/// The answer's status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResponseStatus {
    /// HTTP status.
    pub code: u16,
}

impl AuditEvent {
    /// `verb resource/subresource namespace/name`, for assertions.
    pub fn line(&self) -> String {
        let object = &self.object_ref;
        let mut line = format!("{} {}", self.verb, object.resource);
        if !object.subresource.is_empty() {
            line = format!("{line}/{}", object.subresource);
        }
        let slash = if object.namespace.is_empty() { "" } else { "/" };
        format!("{line} {}{slash}{}", object.namespace, object.name)
    }
}

/// Reads the log; a last line that is still being written is left out.
pub(super) fn parse(log: &str) -> Vec<AuditEvent> {
    let event = |line: &str| serde_json::from_str(line).ok();
    log.lines().filter_map(event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_line_says_who_wrote_what() {
        let line = r#"{"kind":"Event","verb":"patch","user":{"username":"bob","groups":[]},
            "objectRef":{"resource":"pods","namespace":"a","name":"p","apiVersion":"v1","subresource":"status"},
            "responseStatus":{"metadata":{},"code":200},"stage":"ResponseComplete"}"#
            .replace('\n', "");
        let events = parse(&format!("{line}\n{{\"half"));
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].line(), "patch pods/status a/p");
        assert_eq!(events[0].response_status.code, 200);
        assert_eq!(events[0].user.username, "bob");
    }
}
