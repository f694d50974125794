//! Test support shared by the suites of this package.
pub mod check;
pub mod kube;
pub mod sim;
pub mod tools;
