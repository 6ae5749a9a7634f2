//! The API server goes away in the middle of a death.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent_core::engine::{Keys, annotations};
use agent_core::model::Death;
use anyhow::{Context, Result, ensure};
use cases::kube::{Cluster, Node, death, start, unavailable};
use harness::controlplane::Options;
use lastgasp::k8s::{ANNOTATION_DEATH, PodOutcome, PodResult, Writer};

#[test]
fn an_outage_in_the_middle_costs_time_and_nothing_else() {
    let options = Options {
        audit: true,
        ..Options::default()
    };
    run(options, outage);
}

#[test]
fn a_server_that_turns_most_requests_away_is_asked_again_until_all_is_written() {
    let options = Options {
        audit: true,
        // One write at a time, and 429 for all others.
        apiserver_flags: vec![
            "--enable-priority-and-fairness=false".to_owned(),
            "--max-mutating-requests-inflight=1".to_owned(),
        ],
        ..Options::default()
    };
    run(options, overload);
}

fn run<F: Future<Output = Result<()>>>(options: Options, body: impl FnOnce(Cluster) -> F) {
    let cluster = match start(options) {
        Ok(cluster) => cluster,
        Err(error) => return unavailable(&error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs nothing that a test machine lacks");
    if let Err(error) = runtime.block_on(body(cluster)) {
        panic!("{error:?}");
    }
}

async fn overload(cluster: Cluster) -> Result<()> {
    let node = Node::full(&cluster.admin().await?, "turned-away").await?;
    let writer = cluster.writer().await?;
    let death = death("turned-away", 1)?;
    finish(&writer, &death, &node).await?;
    let mut turned_away = 0;
    let mut patches: BTreeMap<String, u32> = BTreeMap::new();
    for event in cluster.writes().await? {
        match event.response_status.code {
            429 => turned_away += 1,
            200 if event.object_ref.resource == "pods" => {
                *patches.entry(event.object_ref.name).or_default() += 1;
            }
            _ => {}
        }
    }
    ensure!(turned_away > 0, "the server was not overloaded");
    ensure!(patches.len() == node.eligible(), "{}", patches.len());
    ensure!(patches.values().all(|count| *count == 1), "{patches:?}");
    Ok(())
}

/// What a caller's outbox does: again, until it is done.
async fn finish(writer: &Writer, death: &Death, node: &Node) -> Result<()> {
    let words = annotations(death, &Keys::default());
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut outcomes = BTreeMap::new();
    loop {
        let mut settle = |pod: PodOutcome| {
            outcomes.insert(pod.pod.name.clone(), pod.result);
        };
        match writer.annotate_pods(death, &words, &mut settle).await {
            Ok(tally) => {
                ensure!(tally.annotated + tally.already == node.eligible() as u32);
                break;
            }
            Err(error) => {
                ensure!(error.is_transient(), "{error}");
                ensure!(Instant::now() < deadline, "not done in time: {error}");
                let pause = error
                    .retry_after()
                    .map_or(Duration::from_millis(200), |asked| {
                        asked.min(Duration::from_secs(1))
                    });
                tokio::time::sleep(pause).await;
            }
        }
    }
    ensure!(outcomes.len() == node.pods.len());
    Ok(())
}

/// The same for the first write: a server that has just started may take some
/// seconds until it serves a definition that it has just been given.
async fn mark(writer: &Writer, death: &Death) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = writer.mark_node(death).await {
        ensure!(error.is_transient(), "{error}");
        ensure!(Instant::now() < deadline, "not done in time: {error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn outage(mut cluster: Cluster) -> Result<()> {
    let node = Node::full(&cluster.admin().await?, "cut-off").await?;
    let mut settings = cluster.settings();
    settings.pods_in_flight = 4;
    settings.request_timeout = Duration::from_secs(2);
    let writer = Writer::connect(&settings).await?;
    let death = death("cut-off", 1)?;
    let words = annotations(&death, &Keys::default());
    mark(&writer, &death).await?;

    // The server is killed after the 30th pod.
    let mut told = 0;
    let failed = writer
        .annotate_pods(&death, &words, |pod| {
            told += u32::from(pod.result == PodResult::Annotated);
            if told == 30 {
                cluster.plane.stop_apiserver();
            }
        })
        .await
        .err()
        .context("the server was dead, and nobody noticed")?;
    ensure!(failed.is_transient(), "{failed}");
    ensure!(told < node.eligible() as u32, "the outage came too late");

    // Nothing answers, and it is said quickly.
    let start = Instant::now();
    let down = writer.mark_node(&death).await.err();
    ensure!(
        down.is_some_and(|e| e.is_transient()),
        "a dead server answered"
    );
    ensure!(start.elapsed() < Duration::from_secs(5), "slow to notice");

    cluster.plane.start_apiserver()?;
    finish(&writer, &death, &node).await?;

    let admin = cluster.admin().await?;
    for (kind, pod) in node.list(&admin).await? {
        let annotations = pod.metadata.annotations.unwrap_or_default();
        let has = annotations.get(ANNOTATION_DEATH).map(String::as_str);
        let told = has == Some(death.name.as_str());
        ensure!(told == kind.is_eligible(), "{:?}", pod.metadata.name);
    }
    // Once: what the dying server had taken is not written again. Its record
    // of the very last answers may be lost with it, never doubled.
    let mut patches: BTreeMap<String, u32> = BTreeMap::new();
    for event in cluster.writes().await? {
        if event.object_ref.resource == "pods" && event.response_status.code == 200 {
            *patches.entry(event.object_ref.name).or_default() += 1;
        }
    }
    ensure!(patches.values().all(|count| *count == 1), "{patches:?}");
    ensure!(patches.len() + 4 >= node.eligible(), "{}", patches.len());
    Ok(())
}
