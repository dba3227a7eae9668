//! Placeholder
pub mod shapes;
