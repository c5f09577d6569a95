//! The engine.

pub mod backend;
pub mod constants;
pub mod layers;
pub mod model;
pub mod objective;
pub mod plan;
pub mod prefixes;
pub mod runner;
pub mod stack;
pub mod trained;
