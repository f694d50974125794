//! Test support shared by the suites of this package.
pub mod check;
pub mod kube;
pub mod model;
pub mod sim;
