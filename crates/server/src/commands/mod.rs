//! The commands that ask or look, one file each.

pub(crate) mod check;
pub(crate) mod claims;
pub(crate) mod cluster;
pub(crate) mod config;
pub(crate) mod health;
pub(crate) mod ingest;
pub(crate) mod keys;
pub(crate) mod kv;
pub(crate) mod operate;
pub(crate) mod recover;
