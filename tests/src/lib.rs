//! Test support shared by the suites of this package.
pub mod check;
pub mod cluster;
pub mod forge;
pub mod fuzz;
pub mod history;
pub mod kube;
pub mod local;
pub mod model;
pub mod prometheus;
pub mod sim;
pub mod tools;
