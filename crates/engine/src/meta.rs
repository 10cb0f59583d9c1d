//! Meta records → rows and back.

use std::ops::ControlFlow;

use stemedb_machine::meta::{MetaRecord, MetaState};
use stemedb_types::{DecodeError, Decoder, Encoder};

use crate::rows::Kind;
use crate::{Batch, Error, Group};

impl Batch {
    /// Writes a meta record, in place of the one of the same name.
    pub fn put_meta(&mut self, record: &MetaRecord) {
        let mut out = Encoder::new();
        record.encode(&mut out);
        let row = self.scope.row(Kind::Meta).raw(&record.name().0).finish();
        self.rows.put(row, out.into_vec());
    }
}

impl Group {
    /// Every meta record of the group, gathered.
    pub fn meta_state(&self) -> Result<MetaState, Error> {
        let mut state = MetaState::default();
        let mut fault = None;
        let range = self.scope.row(Kind::Meta).into_prefix();
        self.scan(&range, false, &mut |_, value| match whole(value) {
            Ok(record) => {
                state.absorb(record);
                ControlFlow::Continue(())
            }
            Err(cause) => {
                let cause = cause.to_string();
                fault = Some(Error::Corrupt { what: "a meta record", cause });
                ControlFlow::Break(())
            }
        })?;
        fault.map_or(Ok(state), Err)
    }
}

/// A record and nothing behind it.
fn whole(value: &[u8]) -> Result<MetaRecord, DecodeError> {
    let mut from = Decoder::new(value);
    let record = MetaRecord::decode(&mut from)?;
    from.finish()?;
    Ok(record)
}

/// Whether a row of the meta group is whole: `name` is what stands behind its kind.
pub(crate) fn check(name: &[u8], value: &[u8]) -> Result<(), String> {
    let record = whole(value).map_err(|cause| format!("a meta record: {cause}"))?;
    if record.name().0 == name {
        Ok(())
    } else {
        Err("a meta record stands under the name of another".to_owned())
    }
}
