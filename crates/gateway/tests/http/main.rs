//! The HTTP layer over a front that is played by a script: what is asked, word for word, and the
//! whole of what comes back.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panic, as the tests do")]

mod admin;
mod assertions;
mod cluster;
mod keys_and_values;
mod once;
mod openapi;
mod operate;
mod reads;
mod refusals;
mod scans;
mod sockets;
mod support;
