//! Test support shared by the suites of this package.

pub mod kube;
