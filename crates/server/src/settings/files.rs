//! The machine's side of settings: files and addresses.

use std::fs;
use std::net::{IpAddr, UdpSocket};

use zeroize::Zeroizing;

use super::check::Machine;
use super::effective::Refused;

/// Longest settings file, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Reads a settings file whole.
pub(crate) fn read_file(path: &str) -> Result<String, Refused> {
    let length = fs::metadata(path).map(|meta| meta.len());
    let text = length.and_then(|length| {
        if length > FILE_BYTES_MAX {
            return Err(std::io::Error::other(format!("longer than {FILE_BYTES_MAX} bytes")));
        }
        fs::read_to_string(path)
    });
    text.map_err(|error| Refused::unreadable(format!("{path}: {error}")))
}

/// The machine this process runs on.
#[derive(Debug)]
pub(crate) struct SystemFiles;

impl Machine for SystemFiles {
    fn read(&self, path: &str) -> Result<Zeroizing<Vec<u8>>, String> {
        fs::read(path).map(Zeroizing::new).map_err(|error| error.to_string())
    }

    /// The address that packets to the world outside would carry. Connecting a UDP socket asks the
    /// kernel's routing table and sends nothing; the targets are reserved for documentation.
    fn outward_address(&self) -> Option<IpAddr> {
        let source = |bind: &str, target: &str| {
            let socket = UdpSocket::bind(bind).ok()?;
            socket.connect(target).ok()?;
            let address = socket.local_addr().ok()?.ip();
            (!address.is_loopback() && !address.is_unspecified()).then_some(address)
        };
        source("0.0.0.0:0", "192.0.2.1:9").or_else(|| source("[::]:0", "[2001:db8::1]:9"))
    }
}
