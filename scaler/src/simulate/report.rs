//! A comparison for people.

pub mod html;
pub mod table;
