//! Laws tried out in virtual time: the plant, the very policies that run live, and what came of them.

pub mod calendar;
pub mod line;
pub mod meter;
pub mod oracle;
pub mod plant;
pub mod trial;
pub mod work;
