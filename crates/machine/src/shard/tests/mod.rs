//! The shard machine, told as transcripts.

mod bytes;
mod once;
mod overlay;
mod query;
mod read;
mod rows;
mod scan;

mod view {
    use crate::shard::suite::map::MapView;

    crate::view_suite!(MapView::default);
}
