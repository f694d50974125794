//! What the suites and the programmes of their own are made of.
pub mod canaries;
pub mod check;
pub mod cluster;
pub mod files;
pub mod forge;
pub mod fuzz;
pub mod history;
pub mod kube;
pub mod local;
pub mod model;
pub mod prometheus;
pub mod sim;
pub mod table;
pub mod tools;
