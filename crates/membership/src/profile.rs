//! What a node tells of itself.
//!
//! Where it stands, what it runs and on which ports: what others may want to know before the
//! cluster's committed state says it, or what no committed state holds at all. Like everything in
//! gossip it is a hint. How it travels is `news`.

use stemedb_types::{DecodeError, Decoder, Encoder};

use crate::Error;
use crate::wire::take_u16;

/// The longest zone and the longest software version that are told, in bytes: an item of news must
/// stay small beside the members that a packet carries.
pub const PROFILE_TEXT_BYTES_MAX: usize = 64;

/// What a node tells of itself. None of it changes while the process lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Its failure domain; empty if it names none.
    pub zone: String,
    /// How much of the data it should hold, relative to the other members.
    pub weight: u8,
    /// The version of its software.
    pub version: String,
    /// The oldest version of the peer plane's protocol that it speaks.
    pub protocol_min: u16,
    /// The newest.
    pub protocol_max: u16,
    /// The port of its own HTTP API, on the host it gossips from; 0 if it has none.
    pub http_port: u16,
    /// The port of its gateway, likewise.
    pub gateway_port: u16,
}

impl Profile {
    /// Refuses what would not fit, with `ProfileTooLong`.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        for (what, text) in [("zone", &self.zone), ("version", &self.version)] {
            if text.len() > PROFILE_TEXT_BYTES_MAX {
                return Err(Error::ProfileTooLong { what, bytes: text.len() });
            }
        }
        Ok(())
    }

    /// Its bytes; the version of their format stands before them, see `news`.
    pub(crate) fn encode(&self, out: &mut Encoder) {
        out.text(&self.zone);
        out.u8(self.weight);
        out.text(&self.version);
        for number in [self.protocol_min, self.protocol_max, self.http_port, self.gateway_port] {
            out.varint(u64::from(number));
        }
    }

    /// Takes one off the front.
    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            zone: take_text(from, "a zone")?,
            weight: from.u8()?,
            version: take_text(from, "a software version")?,
            protocol_min: take_u16(from, "a protocol version")?,
            protocol_max: take_u16(from, "a protocol version")?,
            http_port: take_u16(from, "an HTTP port")?,
            gateway_port: take_u16(from, "a gateway port")?,
        })
    }
}

fn take_text(from: &mut Decoder<'_>, what: &'static str) -> Result<String, DecodeError> {
    let text = from.text(what)?;
    if text.len() > PROFILE_TEXT_BYTES_MAX {
        let got = text.len() as u64;
        return Err(DecodeError::Value { what: "the length of a profile's text", got });
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(bytes: &[u8]) -> Result<Profile, DecodeError> {
        let mut from = Decoder::new(bytes);
        let profile = Profile::decode(&mut from)?;
        from.finish()?;
        Ok(profile)
    }

    fn encoded(profile: &Profile) -> Vec<u8> {
        let mut out = Encoder::new();
        profile.encode(&mut out);
        out.into_vec()
    }

    proptest! {
        #[test]
        fn a_profile_reads_back_and_no_cut_of_it_does(
            zone in "[a-zé]{0,32}", weight in any::<u8>(), version in "[0-9.]{0,64}",
            numbers in any::<[u16; 4]>(), cut in any::<prop::sample::Index>(),
        ) {
            let [protocol_min, protocol_max, http_port, gateway_port] = numbers;
            let profile = Profile {
                zone, weight, version, protocol_min, protocol_max, http_port, gateway_port,
            };
            prop_assert!(profile.validate().is_ok());
            let bytes = encoded(&profile);
            prop_assert!(decoded(&bytes[..cut.index(bytes.len())]).is_err());
            prop_assert_eq!(decoded(&bytes), Ok(profile));
        }
    }

    #[test]
    fn a_text_beyond_its_bound_is_neither_told_nor_taken() {
        let long = "x".repeat(PROFILE_TEXT_BYTES_MAX + 1);
        let zone = Profile { zone: long.clone(), ..Profile::default() };
        let version = Profile { version: long, ..Profile::default() };
        for (profile, named) in [(zone, "zone"), (version, "version")] {
            let refused = profile.validate();
            assert!(
                matches!(refused, Err(Error::ProfileTooLong { what, bytes: 65 }) if what == named),
                "{refused:?}"
            );
            let too_long = DecodeError::Value { what: "the length of a profile's text", got: 65 };
            assert_eq!(decoded(&encoded(&profile)), Err(too_long));
        }
    }
}
