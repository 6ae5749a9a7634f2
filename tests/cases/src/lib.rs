//! What the cases, the demo and the benches share.

pub mod annotator;
pub mod bench;
pub mod demo;
pub mod kube;
pub mod lab;
pub mod native;
pub mod node;
