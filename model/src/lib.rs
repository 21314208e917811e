//! An exhaustive search of planner, ledger, permit, node and agent: the real pure functions, in every order.

mod actors;
mod agents;
pub mod config;
pub mod configurations;
mod controllers;
pub mod explore;
mod forget;
mod good;
mod host;
pub mod model;
mod normal;
mod objects;
mod oracle;
mod people;
mod permits;
mod rounds;
pub mod state;
pub mod steps;
mod table;
mod tell;
pub mod time;
mod writes;
