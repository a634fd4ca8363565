//! The metabase: everything a satellite knows, in SQLite.
//!
//! This is the only module with SQL. What it offers are whole steps of the satellite's work, each one transaction, so
//! that another database could stand behind the same calls. What it has acknowledged survives a power cut.

#[macro_use]
pub(crate) mod tree;

pub(crate) mod access;
pub(crate) mod buckets;
mod codec;
pub(crate) mod database;
pub(crate) mod feed;
pub(crate) mod leases;
pub(crate) mod lines;
pub(crate) mod nodes;
pub(crate) mod read;
mod schema;
pub(crate) mod segments;
#[cfg(test)]
mod snapshot;
pub(crate) mod streams;
pub(crate) mod sweep;
#[cfg(test)]
mod tests;

pub(crate) use read::{inode_exists, referring_inodes};
pub use schema::SCHEMA_VERSION;
pub use sweep::Swept;

use std::path::PathBuf;
use std::sync::Arc;
use strewn_engine::bucket;

/// Why the metabase did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be met: told to whoever asked.
    #[error(transparent)]
    Refused(#[from] bucket::Error),
    /// The database failed.
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
    /// The transaction that held the change could not be made durable.
    #[error("database: {0}")]
    Commit(Arc<rusqlite::Error>),
    /// A file failed.
    #[error("database file: {0}")]
    Io(#[from] std::io::Error),
    /// A stored row is not what was written.
    #[error("the metabase is damaged: {0}")]
    Damaged(String),
    /// Another process has it.
    #[error("{} is in use by another satellite", .0.display())]
    InUse(PathBuf),
    /// Made by another version.
    #[error("{} has version {found}, this software reads version {SCHEMA_VERSION}", .path.display())]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// Not a metabase at all.
    #[error("{} is not a satellite's metabase", .0.display())]
    NotAMetabase(PathBuf),
    /// Of another identity.
    #[error("{} belongs to a satellite of another identity", .0.display())]
    OtherSatellite(PathBuf),
    /// It is being closed.
    #[error("the metabase is closed")]
    Closed,
}

impl From<Error> for bucket::Error {
    /// What is told to a peer: its own mistakes in full, ours without details (those are logged).
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(error) => error,
            Error::Closed => Self::Unreachable("the satellite is shutting down".to_owned()),
            error => {
                tracing::error!(%error, "metabase");
                Self::Internal("the satellite's database failed".to_owned())
            }
        }
    }
}
