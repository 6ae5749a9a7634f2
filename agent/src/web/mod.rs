//! HTTP: how the annotator is, what it counts, and what `why`, `deaths` and `fleet`
//! read. Plain, read-only, for the cluster's inside: no answer holds a secret,
//! all of them hold kernel text.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use agent_core::model::{NodeName, Timestamp};
use agent_core::recurrence::{self, Fleet, HasBug};
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::store::{self, Explanation, Query as Asked, Removed, Store, Summary};
use crate::telemetry::Metrics;

/// Most deaths in one answer.
const DEATHS_MAX: u32 = 1_000;
/// Most lines in one answer.
const LINES_MAX: u32 = 8_192;
/// Lines in an answer to `why` unless it asks for another number.
const LINES_DEFAULT: u32 = 20;

/// What the pages are made of.
pub struct Pages {
    /// Where the answers come from.
    pub store: Arc<Store>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Brings counts that live elsewhere up to date before they are shown.
    pub refresh: Box<dyn Fn(&Metrics) + Send + Sync>,
    /// What keeps the annotator from doing its work; none if it is ready.
    pub problems: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Whether a kernel has a known bug.
    pub has_bug: fn(&str, &str, Option<&str>) -> HasBug,
}

/// Serves until `stop` says so.
pub async fn serve(
    listener: TcpListener,
    pages: Pages,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let stopped = async move {
        // An error means that nobody can say stop any more.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    axum::serve(listener, router(pages))
        .with_graceful_shutdown(stopped)
        .await
}

fn router(pages: Pages) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/deaths", get(deaths))
        .route("/v1/deaths/{name}", get(death))
        .route("/v1/deaths/{name}/lines", get(lines))
        .route("/v1/removed", get(removed))
        .route("/v1/why", get(why))
        .route("/v1/fleet", get(fleet))
        .with_state(Arc::new(pages))
}

type Shared = State<Arc<Pages>>;

/// An answer that could not be given.
enum Failure {
    Unknown,
    BadQuestion(&'static str),
    Store(store::Error),
    Ended,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Unknown => (StatusCode::NOT_FOUND, "nothing is known of it".to_owned()),
            Self::BadQuestion(why) => (StatusCode::BAD_REQUEST, why.to_owned()),
            Self::Store(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            Self::Ended => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "the answer was not finished".to_owned(),
            ),
        };
        (status, Json(serde_json::json!({ "error": text }))).into_response()
    }
}

/// Asks the store where it may wait for the disk.
async fn ask<T: Send + 'static>(
    pages: &Arc<Pages>,
    question: impl FnOnce(&Store) -> Result<T, store::Error> + Send + 'static,
) -> Result<T, Failure> {
    let store = Arc::clone(&pages.store);
    match tokio::task::spawn_blocking(move || question(&store)).await {
        Ok(answer) => answer.map_err(Failure::Store),
        Err(_) => Err(Failure::Ended),
    }
}

async fn ready(State(pages): Shared) -> Response {
    let problems = (pages.problems)();
    if problems.is_empty() {
        return "ready\n".into_response();
    }
    let text = problems.join("\n") + "\n";
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn metrics(State(pages): Shared) -> Result<Response, Failure> {
    (pages.refresh)(&pages.metrics);
    let text = pages.metrics.text().map_err(|_| Failure::Ended)?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

#[derive(Deserialize)]
struct Limit {
    limit: Option<u32>,
}

async fn deaths(
    State(pages): Shared,
    Query(asked): Query<Limit>,
) -> Result<Json<Vec<Summary>>, Failure> {
    let limit = asked.limit.unwrap_or(DEATHS_MAX).min(DEATHS_MAX);
    ask(&pages, move |store| store.deaths(limit))
        .await
        .map(Json)
}

async fn removed(
    State(pages): Shared,
    Query(asked): Query<Limit>,
) -> Result<Json<Vec<Removed>>, Failure> {
    let limit = asked.limit.unwrap_or(DEATHS_MAX).min(DEATHS_MAX);
    ask(&pages, move |store| store.removed(limit))
        .await
        .map(Json)
}

async fn death(State(pages): Shared, Path(name): Path<String>) -> Result<Json<Summary>, Failure> {
    let found = ask(&pages, move |store| store.death(&name)).await?;
    found.map(Json).ok_or(Failure::Unknown)
}

#[derive(Deserialize)]
struct Last {
    last: Option<u32>,
}

async fn lines(
    State(pages): Shared,
    Path(name): Path<String>,
    Query(asked): Query<Last>,
) -> Result<Response, Failure> {
    let last = asked.last.unwrap_or(LINES_MAX).min(LINES_MAX);
    let found = ask(&pages, move |store| match store.death(&name)? {
        Some(summary) => store.lines(&summary.death, last).map(Some),
        None => Ok(None),
    })
    .await?;
    Ok(Json(found.ok_or(Failure::Unknown)?).into_response())
}

#[derive(Deserialize)]
struct Why {
    pod: Option<String>,
    node: Option<String>,
    any: Option<String>,
    lines: Option<u32>,
}

async fn why(State(pages): Shared, Query(asked): Query<Why>) -> Result<Json<Explanation>, Failure> {
    let question = match (asked.pod, asked.node, asked.any) {
        (Some(pod), None, None) => match pod.split_once('/') {
            Some((namespace, name)) => Asked::Pod {
                namespace: Some(namespace.to_owned()),
                name: name.to_owned(),
            },
            None => Asked::Pod {
                namespace: None,
                name: pod,
            },
        },
        (None, Some(node), None) => Asked::Node(node),
        (None, None, Some(name)) => Asked::Any(name),
        _ => {
            return Err(Failure::BadQuestion(
                "ask for one of pod=NAMESPACE/NAME, node=NAME, any=NAME",
            ));
        }
    };
    let lines = asked.lines.unwrap_or(LINES_DEFAULT).min(LINES_MAX);
    let found = ask(&pages, move |store| store.why(&question, lines)).await?;
    found.map(Json).ok_or(Failure::Unknown)
}

#[derive(Deserialize)]
struct OfFleet {
    /// Leave out what is longer ago, in seconds.
    since_s: Option<u64>,
    fingerprint: Option<String>,
    node: Option<String>,
}

async fn fleet(State(pages): Shared, Query(asked): Query<OfFleet>) -> Result<Json<Fleet>, Failure> {
    let node = match asked.node {
        None => None,
        // What is no name is none of a node.
        Some(name) => Some(NodeName::new(&name).ok_or(Failure::Unknown)?),
    };
    let question = recurrence::Asked {
        fingerprint: asked.fingerprint,
        node,
    };
    let since = asked.since_s.map(|seconds| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = now.map_or(0, |now| now.as_millis() as u64);
        Timestamp(now_ms.saturating_sub(seconds.saturating_mul(1_000)))
    });
    let has_bug = pages.has_bug;
    ask(&pages, move |store| store.fleet(since, &question, &has_bug))
        .await
        .map(Json)
}
