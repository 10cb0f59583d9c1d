//! Snapshots: whole or not at all, resumed, and nobody reads half of two states.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use stemedb_engine::{Error, Group, Incoming, Outgoing, Terms, copy as copy_group};
use stemedb_machine::shard::suite::once::put;
use stemedb_machine::shard::suite::random::Draw;
use stemedb_machine::shard::suite::{Run, key};
use stemedb_machine::shard::{Answer, Condition, Read, ReadAnswer};
use stemedb_types::GroupId;
use tempfile::TempDir;

use crate::common::{Counted, chunks, commits, group};
use crate::streams::*;
use crate::watched::Watched;

#[test]
fn a_snapshot_is_the_same_rows_at_the_other_end_whatever_was_there() {
    let [here, there] = [(); 2].map(|()| TempDir::new().unwrap());
    let sent = sender(here.path(), 1);
    // The receiver holds another state, and a group beside it that must not notice.
    let received = sender(there.path(), 2).replica.group;
    let beside = Group::open(received.store().clone(), GroupId(2)).unwrap();
    beside.commit(beside.batch(), b"beside".to_vec()).unwrap();
    let files = files_for(&sent.replica.group, 1);
    assert!(files.len() > 3, "{} files", files.len());
    let installed = install(&received, &files).unwrap();
    assert_eq!(chunks(&installed), chunks(&sent.replica.group));
    assert_eq!(commits(installed.applied().unwrap()), Some(sent.replica.commits));
    assert_eq!(installed.durable_applied().unwrap(), installed.applied().unwrap());
    assert_eq!(beside.applied().unwrap().as_deref(), Some(&b"beside"[..]));
    assert_eq!(staged(there.path()), [] as [PathBuf; 0]);
    assert_eq!(staged(here.path()), [] as [PathBuf; 0], "the sender keeps no file either");
    // It goes on from there as the sender does, and again over itself.
    let (mut ours, mut theirs) = (Run::new(Counted::over(installed)), sent);
    ours.replica.commits = theirs.replica.commits;
    let mut draw = Draw(3);
    for _ in 0..20 {
        let command = draw.command();
        assert_eq!(ours.command(&command), theirs.command(&command));
    }
    assert_eq!(chunks(&ours.replica.group), chunks(&theirs.replica.group));
    let again = copy_group(&theirs.replica.group, &ours.replica.group, 2).unwrap();
    assert_eq!(chunks(&again.install().unwrap()), chunks(&theirs.replica.group));
}

#[test]
fn a_view_is_frozen_while_writes_go_on_and_resumes_with_the_same_rows() {
    let [here, there] = [(); 2].map(|()| TempDir::new().unwrap());
    let mut sent = sender(here.path(), 1);
    let before = chunks(&sent.replica.group);
    let outgoing = freeze(&sent.replica.group, 7);
    assert_eq!(commits(Some(outgoing.applied().clone())), Some(sent.replica.commits));
    let first = files(&pieces(&outgoing, 1, 0));
    // Writes, flushes, even a snapshot taking the group's place: the view does not see it.
    for n in 0..30u8 {
        sent.put(&[b'n', n], &noise(n));
    }
    let store = sent.replica.group.store().clone();
    store.flush().unwrap();
    let other = sender(there.path(), 5);
    let replaced = copy_group(&other.replica.group, &sent.replica.group, 3).unwrap();
    let replaced = replaced.install().unwrap();
    drop(sent);
    let again = files(&pieces(&outgoing, 1, 2));
    assert_eq!(again.len(), first.len() - 2);
    let third = TempDir::new().unwrap();
    let received = group(third.path(), 1);
    let mut incoming = Incoming::begin(&received, 7).unwrap();
    take(&mut incoming, &first[..2]).unwrap();
    take(&mut incoming, &again).unwrap();
    assert_eq!(chunks(&incoming.install().unwrap()), before);
    assert_eq!(chunks(&replaced), chunks(&other.replica.group));
    // Once nobody needs it, the rows of the replaced generation go.
    assert!(rows_of_generation(&store, 0) > 0);
    outgoing.close();
    assert_eq!(rows_of_generation(&store, 0), 0);
}

#[test]
fn a_view_that_nobody_asks_for_goes_and_says_so() {
    let dir = TempDir::new().unwrap();
    let group = sender(dir.path(), 1).replica.group;
    let short = Terms { kept: Duration::ZERO, ..terms() };
    let outgoing = Outgoing::begin(&group, 1, short).unwrap();
    while outgoing.is_kept() {
        std::thread::yield_now();
    }
    let refused = outgoing.send(1, 0, Box::new(|_| ControlFlow::Continue(())));
    assert!(is_refused(&refused), "{refused:?}");
    assert_eq!(staged(dir.path()), [] as [PathBuf; 0]);
    // Of a group in which nothing was ever applied there is none.
    let empty = Group::open(group.store().clone(), GroupId(5)).unwrap();
    assert!(is_refused(&Outgoing::begin(&empty, 1, terms())));
}

#[test]
fn a_broken_stream_goes_on_where_whole_files_end_and_sends_none_of_them_again() {
    let [here, there] = [(); 2].map(|()| TempDir::new().unwrap());
    let sent = sender(here.path(), 1).replica.group;
    let received = sender(there.path(), 2).replica.group;
    let before = chunks(&received);
    let outgoing = freeze(&sent, 1);
    let mut incoming = Incoming::begin(&received, 1).unwrap();
    let mut have = 0;
    let mut breaks = 0;
    while !incoming.is_whole() {
        let all = pieces(&outgoing, incoming.generation(), incoming.have());
        let all = all.concat();
        let first = files(&[Bytes::from(all.clone())])[0].len();
        // It breaks within the second file, in odd pieces.
        let cut = (first + HEAD_BYTES + 100).min(all.len());
        for piece in all[..cut].chunks(7919) {
            incoming.take(piece).unwrap();
        }
        if !incoming.is_whole() {
            incoming.break_off();
            breaks += 1;
        }
        assert_eq!(incoming.have(), have + 1, "one more file, and only that");
        let files = staged(there.path());
        let files = files.iter().filter(|file| !file.parent().unwrap().ends_with("check"));
        assert_eq!(files.count(), have as usize + 1, "none of the broken one");
        have += 1;
        assert_eq!(chunks(&received), before);
    }
    assert!(breaks > 2, "{breaks}");
    assert_eq!(chunks(&incoming.install().unwrap()), chunks(&sent));
    // A receiver that claims files that were never sent is told so, not obeyed.
    let (gives, given) = mpsc::channel();
    let sink = Box::new(move |piece| {
        let _ = gives.send(piece);
        ControlFlow::Continue(())
    });
    outgoing.send(1, 1000, sink).unwrap();
    assert!(is_refused(&given.recv().unwrap()));
}

/// Whoever writes files of rows syncs them, and on this volume it would be the log's syncs that wait.
#[test]
fn a_sender_puts_nothing_on_its_own_disk() {
    let dir = TempDir::new().unwrap();
    let watched = Watched::open(dir.path());
    let sent = fill(Group::open(watched.clone(), GroupId(1)).unwrap(), 1).replica.group;
    let files = files_for(&sent, 1);
    let made = watched.made.lock().unwrap();
    assert_eq!(made.len(), files.len());
    assert!(made.iter().all(|path| !path.starts_with(dir.path())), "{made:?}");
}

/// To make a database takes a dozen syncs.
#[test]
fn files_of_one_snapshot_are_checked_in_one_database_which_goes_with_the_last() {
    use std::os::unix::fs::MetadataExt;
    let [here, there] = [(); 2].map(|()| TempDir::new().unwrap());
    let sent = sender(here.path(), 1).replica.group;
    let received = group(there.path(), 1);
    let mut incoming = Incoming::begin(&received, 1).unwrap();
    let files = files_for(&sent, incoming.generation());
    let mut made = Vec::new();
    for file in &files {
        incoming.take(file).unwrap();
        let identity =
            staged(there.path()).into_iter().find(|file| file.ends_with("check/IDENTITY"));
        made.push(identity.map(|identity| fs::metadata(identity).unwrap().ino()));
    }
    assert_eq!(made.pop(), Some(None), "the last is checked");
    made.dedup();
    assert!(files.len() > 3 && made.len() == 1 && made[0].is_some(), "{made:?}");
    assert_eq!(chunks(&incoming.install().unwrap()), chunks(&sent));
}

#[test]
fn a_kill_at_any_step_leaves_the_old_state_or_the_new_one_whole_and_nothing_beside_it() {
    let [here, there] = [(); 2].map(|()| TempDir::new().unwrap());
    let sent = sender(here.path(), 1).replica.group;
    let watched = Watched::open(there.path());
    let received = fill(Group::open(watched.clone(), GroupId(1)).unwrap(), 2).replica.group;
    received.store().flush().unwrap();
    let (old, new) = (chunks(&received), chunks(&sent));
    watched.watching.store(true, Ordering::Relaxed);
    let mut incoming = Incoming::begin(&received, 1).unwrap();
    for file in files_for(&sent, incoming.generation()) {
        let (some, rest) = file.split_at(file.len() / 2);
        incoming.take(some).unwrap();
        watched.copy("half a file");
        incoming.take(rest).unwrap();
    }
    let installed = incoming.install().unwrap();
    drop(received);
    watched.copy("the last reader is gone");
    watched.watching.store(false, Ordering::Relaxed);
    assert_eq!(chunks(&installed), new);
    assert_eq!(rows_of_generation(installed.store(), 0), 0);
    let copies = std::mem::take(&mut *watched.copies.lock().unwrap());
    let mut came = Vec::new();
    for (what, left) in &copies {
        let killed = group(left.path(), 1);
        let found = chunks(&killed);
        assert!(found == old || found == new, "{what}: neither the old nor the new");
        came.push(found == new);
        assert_eq!(staged(left.path()), [] as [PathBuf; 0], "{what}");
        assert_eq!(fs::read_dir(left.path().join("staging")).unwrap().count(), 0, "{what}");
        let living = usize::from(found == new) as u8;
        assert!(rows_of_generation(killed.store(), living) > 0, "{what}");
        assert_eq!(rows_of_generation(killed.store(), 1 - living), 0, "{what}: rows leak");
    }
    let steps: Vec<_> = copies.iter().map(|(what, _)| what.as_str()).collect();
    for step in ["half a file", "checking a file", "taking in", "writing", "flushing", "sweeping"] {
        assert!(steps.iter().any(|what| what.contains(step)), "{step} of {steps:?}");
    }
    // It turns once, at the flush of the pointer.
    let turned = came.iter().position(|new| *new).unwrap();
    assert_eq!(steps[turned], "after flushing", "{steps:?}");
    assert!(came[turned..].iter().all(|new| *new));
}

#[test]
fn a_view_that_waits_for_its_turn_ends_at_once_when_it_is_closed() {
    let dir = TempDir::new().unwrap();
    let sent = sender(dir.path(), 1).replica.group;
    // A piece an hour.
    let terms = Terms { bytes_per_second: 50, ..terms() };
    let outgoing = Arc::new(Outgoing::begin(&sent, 1, terms).unwrap());
    let (gives, given) = mpsc::channel();
    let sink = Box::new(move |piece: Result<Bytes, Error>| {
        let _ = gives.send(piece.unwrap().len());
        ControlFlow::Continue(())
    });
    outgoing.send(1, 0, sink).unwrap();
    // The head has its second; the piece behind it has come, and now there is a turn to wait for.
    assert_eq!(given.recv_timeout(Duration::from_secs(60)), Ok(HEAD_BYTES));
    assert!(given.recv_timeout(Duration::from_secs(60)).is_ok());
    let (tells, closed) = mpsc::channel();
    let closing = outgoing.clone();
    std::thread::spawn(move || {
        closing.close();
        let _ = tells.send(());
    });
    assert_eq!(closed.recv_timeout(Duration::from_secs(30)), Ok(()));
    assert!(!outgoing.is_kept());
}

#[test]
fn what_a_replaced_generation_held_is_given_back() {
    let [here, there] = [(); 2].map(|()| TempDir::new().unwrap());
    let mut received = sender(there.path(), 2);
    for n in 0..200u8 {
        received.put(&[b'o', n], &noise(n));
        if n % 20 == 0 {
            // So many files that they are compacted.
            received.replica.group.store().flush().unwrap();
        }
    }
    let store = received.replica.group.store().clone();
    store.flush().unwrap();
    let full = store.disk_bytes();
    let small = group(here.path(), 1);
    small.commit(small.batch(), b"mark".to_vec()).unwrap();
    let installed = copy_group(&small, &received.replica.group, 1).unwrap().install().unwrap();
    // Files of the first level wait for a compaction; moved below it, whole files go at once.
    let again =
        copy_group(&fill(group(TempDir::new().unwrap().path(), 1), 3).replica.group, &installed, 2);
    let again = again.unwrap().install().unwrap();
    drop((received, installed));
    let with = store.disk_bytes();
    let third = copy_group(&small, &again, 3).unwrap().install().unwrap();
    drop(again);
    // A compaction may be at work.
    let begun = std::time::Instant::now();
    while store.disk_bytes() + 900_000 > with.max(full) {
        let now = store.disk_bytes();
        assert!(begun.elapsed().as_secs() < 20, "{full}, {with}, {now}");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(third);
}

#[test]
fn rows_of_a_generation_that_never_lived_are_swept_at_the_next_open() {
    let dir = TempDir::new().unwrap();
    let received = sender(dir.path(), 2).replica.group;
    let before = chunks(&received);
    let store = received.store().clone();
    // A crash between taking in and flipping: the rows are there, the pointer is not.
    let file = store.staging().unwrap().join("file");
    let scope = scope(1, 9);
    store
        .write_file(&file, &mut |put| {
            put(&[&scope[..], &[1]].concat(), b"mark")?;
            put(&[&scope[..], &[0x20]].concat(), b"row")
        })
        .unwrap();
    store.take_in(&[file]).unwrap();
    assert_eq!(rows_of_generation(&store, 9), 2);
    drop(received);
    let again = Group::open(store.clone(), GroupId(1)).unwrap();
    assert_eq!(rows_of_generation(&store, 9), 0);
    assert_eq!(chunks(&again), before);
}

#[test]
fn a_handle_from_before_reads_on_whole_and_writes_no_more() {
    let [here, there] = [(); 2].map(|()| TempDir::new().unwrap());
    let sent = sender(here.path(), 1).replica.group;
    let mut received = sender(there.path(), 2);
    received.put(b"only-before", b"v");
    let before = chunks(&received.replica.group);
    let installed = copy_group(&sent, &received.replica.group, 1).unwrap().install().unwrap();
    // The reader that was under way sees all of the old state; one that begins now the new.
    assert_eq!(chunks(&received.replica.group), before);
    let asked = Read::Get { key: key(b"only-before"), as_of: None };
    assert!(matches!(received.read(&asked), ReadAnswer::Value { version: Some(_), .. }));
    let old = received.replica.group;
    let refused = old.commit(old.batch(), vec![]);
    assert!(matches!(refused, Err(Error::Replaced { .. })), "{refused:?}");
    assert!(rows_of_generation(installed.store(), 0) > 0);
    drop(old);
    assert_eq!(rows_of_generation(installed.store(), 0), 0);
    assert_eq!(chunks(&installed), chunks(&sent));
}

#[test]
fn two_snapshots_at_once_do_not_mix() {
    let dirs = [(); 3].map(|()| TempDir::new().unwrap());
    let sent = [1, 4].map(|seed| sender(dirs[seed as usize % 2].path(), seed).replica.group);
    let received = sender(dirs[2].path(), 2).replica.group;
    let [first, second] = [0, 1].map(|n| copy_group(&sent[n], &received, n as u128).unwrap());
    let installed = first.install().unwrap();
    assert_eq!(chunks(&installed), chunks(&sent[0]));
    installed.commit(installed.batch(), b"went on".to_vec()).unwrap();
    let installed_later = second.install().unwrap();
    assert_eq!(chunks(&installed_later), chunks(&sent[1]));
    let refused = installed.commit(installed.batch(), vec![]);
    assert!(matches!(refused, Err(Error::Replaced { .. })), "{refused:?}");
    drop((received, installed));
    assert_eq!([0, 1].map(|n| rows_of_generation(installed_later.store(), n)), [0, 0]);
    assert_eq!(chunks(&installed_later), chunks(&sent[1]));
}

#[test]
fn an_install_that_finds_no_room_is_tried_again_and_goes_in_once() {
    let [here, there] = [(); 2].map(|()| TempDir::new().unwrap());
    let sent = sender(here.path(), 1).replica.group;
    let watched = Watched::open(there.path());
    let received = Group::open(watched.clone(), GroupId(1)).unwrap();
    let mut incoming = Incoming::begin(&received, 1).unwrap();
    let files = files_for(&sent, incoming.generation());
    take(&mut incoming, &files).unwrap();
    watched.full_once.store(true, Ordering::Relaxed);
    let full = incoming.try_install().map(|_| ()).unwrap_err();
    assert!(full.is_full(), "{full}");
    assert_eq!(chunks(&incoming.try_install().unwrap()), chunks(&sent));
}

#[test]
fn a_snapshot_takes_the_answers_of_named_writes_along() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut sent = Run::new(Counted::over(group(from.path(), 1)));
    let write = || put(b"k", b"v", Condition::Always);
    let first = sent.named("n", 1, 1000, write());
    sent.put(b"k", b"w");
    let receiver = group(to.path(), 1);
    let received = copy_group(&sent.replica.group, &receiver, 1).unwrap().install().unwrap();
    let mut there = Run::new(Counted::over(received));
    assert_eq!(there.kept(), sent.kept());
    let again = Answer::Replayed(Box::new(first));
    assert_eq!(there.named("n", 1, 2000, write()), again);
    assert_eq!(sent.named("n", 1, 2000, write()), again);
}
