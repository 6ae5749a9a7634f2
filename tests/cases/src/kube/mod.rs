//! A real API server with what `deploy/` ships, and nodes to die on it.

mod bench;
mod cluster;
mod fixture;
mod gasps;
mod manifests;
mod process;

pub use bench::{Figures, bare_loop, bench_pods};
pub use cluster::{Cluster, annotator, cluster, narrow, start, unavailable};
pub use fixture::{Kind, Node, death, patch_pod};
pub use gasps::{NULL_POINTER, PANIC, Speaker};
pub use manifests::{apply, documents, documents_with};
pub use process::{Annotator, ask, program};
