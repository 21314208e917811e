//! For every promise: a clean run in which nothing is found, and the same with one thing planted, which is.

mod after;
mod ahead;
mod before;
mod grants;
mod limits;
mod offers;
mod order;
mod own;
mod people;
mod reboot;
mod steps;
mod story;
mod whole;
mod windows;
