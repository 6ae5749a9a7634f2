//! gasp
