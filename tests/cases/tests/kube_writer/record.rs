//! What the status of a `NodeDeath` keeps, and what it lets go of.

use agent_core::model::{Account, Channel, KnownBug};

use super::*;

#[test]
fn what_is_not_known_any_more_is_gone_and_a_repetition_writes_nothing() {
    case(|cluster| async move {
        let admin = cluster.admin().await?;
        Node::create(&admin, "wordless", &[]).await?;
        let writer = cluster.writer().await?;
        // Its boot ended without a word; then a record of pstore is found.
        let mut recorded = death("wordless", 1)?;
        let bug = KnownBug {
            id: "cve-2024-42281".into(),
            title: "skb_segment BUG after a BPF program has made gso_size smaller".into(),
            likely: true,
            fixed_in: Some("6.1.103".into()),
            workaround: Some("ethtool -K eth0 gro off gso off".into()),
            reference: None,
        };
        recorded.report.as_mut().context("a report")?.known_bugs = vec![bug];
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
        assert_eq!(known.fingerprint.as_deref(), Some("cbf7e923b4b2dcec"));
        let bug = known.known_bugs.first().context("a known bug")?;
        assert_eq!((bug.id.as_str(), bug.likely), ("cve-2024-42281", true));
        assert_eq!(bug.fixed_in.as_deref(), Some("6.1.103"));
        let message = known.message.context("a message")?;
        assert!(
            message.ends_with("known bug cve-2024-42281, fixed in 6.1.103"),
            "{message}"
        );
        let before = writes(cluster, "wordless").await?.len();
        writer.update_record(&recorded).await?;
        assert_eq!(writes(cluster, "wordless").await?.len(), before);

        writer.update_record(&wordless).await?;
        let unknown = status().await?;
        assert!(unknown.known_bugs.is_empty());
        let of_report = (unknown.kernel_line, unknown.fault_function, unknown.module);
        assert_eq!(of_report, (None, None, None));
        assert_eq!(unknown.fingerprint, None);
        assert_eq!(unknown.channels.len(), 1);
        assert!(unknown.pods.is_some(), "nobody took that back");
        Ok(())
    });
}
