//! The engine.

pub mod backend;
pub mod batch;
pub mod constants;
pub mod layers;
pub mod model;
pub mod objective;
pub mod plan;
pub mod prefixes;
pub mod runner;
pub mod spec;
pub mod stack;
pub mod trained;
