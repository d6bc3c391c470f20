//! The pipeline: its folders are the stages, in order.

pub mod source;
