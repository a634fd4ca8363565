//! The real thing: the binary just built, a network on loopback, the kernel's FUSE, and the tools that people use.
//!
//! Every test has a network and a mountpoint of its own below one temporary directory, and takes both away when it ends.
//! Needs /dev/fuse and the programs that `mount-tests/run` installs.

mod access;
mod away;
mod caches;
mod commands;
mod complaints;
mod crash;
mod daemons;
mod database;
mod disk;
mod errors;
mod full;
mod harness;
mod kernel;
mod mounts;
mod packaging;
mod passthrough;
mod permissions;
mod power;
mod promises;
mod secrecy;
mod survival;
mod tools;
mod unmount;
mod writers;
