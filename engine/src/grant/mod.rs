//! Access grants: where a satellite is, what may be asked of it, and the keys to what it answers.
//!
//! The [`ApiKey`] is what the satellite checks; the [`OpenedKey`]s are what it must never see. Both can be narrowed without
//! asking anybody.

mod access;
mod api_key;
mod caveat;
mod text;

pub use access::{AccessGrant, GrantError, Inspection, OpenedKey, Opens, Start};
pub use api_key::{ApiKey, ApiKeyError, Tail};
pub use caveat::{Action, Actions, Caveat, Denied, InvalidCaveat, Permissions, Subtree};

/// Most caveats of an API key.
pub const MAX_CAVEATS: usize = 32;
/// Most bytes of an encoded caveat.
pub const MAX_CAVEAT_BYTES: usize = 4_096;
/// Most subtrees of a caveat.
pub const MAX_SUBTREES: usize = 64;
/// Most bytes of a serialized API key.
pub const MAX_API_KEY_BYTES: usize = 16 * 1024;
/// Most keys of an access grant.
pub const MAX_KEYS: usize = 64;
/// Most characters of a serialized access grant.
pub const MAX_GRANT_TEXT: usize = 64 * 1024;
/// Most characters of a satellite's address.
pub const MAX_SATELLITE: usize = 512;
/// Most bytes of a bucket's name in a grant.
pub const MAX_BUCKET_NAME: usize = 63;
/// Most bytes of a shared path as shown to people.
pub const MAX_PATH: usize = 4_096;
