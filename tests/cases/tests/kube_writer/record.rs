//! What the status of a `NodeDeath` keeps, and what it lets go of.

use agent_core::model::{Account, Channel};

use super::*;

#[test]
fn what_is_not_known_any_more_is_gone_and_a_repetition_writes_nothing() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        Node::create(&admin, "wordless", &[]).await?;
        let writer = cluster.writer().await?;
        // Its boot ended without a word; then a record of pstore is found.
        let recorded = death("wordless", 1)?;
        let mut wordless = recorded.clone();
        wordless.report = None;
        wordless.channels = vec![Account {
            channel: Channel::Gasp,
            would: "the last words".into(),
            did: "nothing".into(),
        }];
        mark(&writer, &wordless).await?;
        let status = async || record(&admin, &recorded).await?.status.context("no status");
        assert_eq!(status().await?.channels.len(), 1);

        writer.update_record(&recorded).await?;
        let known = status().await?;
        assert!(known.channels.is_empty(), "{:?}", known.channels);
        assert_eq!(known.module.as_deref(), Some("boom"));
        let before = writes(cluster, "wordless").await?.len();
        writer.update_record(&recorded).await?;
        assert_eq!(writes(cluster, "wordless").await?.len(), before);

        writer.update_record(&wordless).await?;
        let unknown = status().await?;
        let of_report = (unknown.kernel_line, unknown.fault_function, unknown.module);
        assert_eq!(of_report, (None, None, None));
        assert_eq!(unknown.channels.len(), 1);
        assert!(unknown.pods.is_some(), "nobody took that back");
        Ok(())
    });
}
