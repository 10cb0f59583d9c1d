//! What a crash leaves: exactly what the applied mark in it says, data and mark together.

use std::io::{BufRead, BufReader};
use std::process;
use std::sync::Arc;

use stemedb_engine::{Budget, Group, RocksStore, Store};
use stemedb_machine::shard::suite::map::MapView;
use stemedb_machine::shard::suite::random::Draw;
use stemedb_machine::shard::suite::{Run, key};
use stemedb_machine::shard::{Command, Condition, Write};
use stemedb_types::GroupId;
use tempfile::TempDir;

use crate::common::{Counted, chunks, commits, copy, group, open};

#[test]
fn what_is_durable_is_what_was_flushed_and_not_what_was_written() {
    let dir = TempDir::new().unwrap();
    let mut run = Run::new(Counted::over(group(dir.path(), 1)));
    let durable = |run: &Run<Counted>| commits(run.replica.group.durable_applied().unwrap());
    let applied = |run: &Run<Counted>| commits(run.replica.group.applied().unwrap());
    assert_eq!((applied(&run), durable(&run)), (None, None));
    run.put(b"k", b"1");
    run.put(b"k", b"2");
    assert_eq!((applied(&run), durable(&run)), (Some(2), None));
    run.replica.group.store().flush().unwrap();
    assert_eq!((applied(&run), durable(&run)), (Some(2), Some(2)));
    run.put(b"k", b"3");
    assert_eq!((applied(&run), durable(&run)), (Some(3), Some(2)));
    // A flush of one group's store is a flush of all groups in it.
    let other = Group::open(run.replica.group.store().clone(), GroupId(2)).unwrap();
    other.commit(other.batch(), b"mark".to_vec()).unwrap();
    assert_eq!(other.durable_applied().unwrap(), None);
    other.store().flush().unwrap();
    assert_eq!((applied(&run), durable(&run)), (Some(3), Some(3)));
    assert_eq!(other.durable_applied().unwrap().as_deref(), Some(&b"mark"[..]));
}

/// Kills the store at many points: the copy must hold the first so many commands, no more and no
/// less, where so many is what its own mark says, and what was called durable before the kill.
#[test]
fn a_killed_store_holds_exactly_the_commands_that_its_mark_counts() {
    for seed in 0..6 {
        let dir = TempDir::new().unwrap();
        let mut draw = Draw(seed);
        let commands: Vec<_> = (0..60).map(|_| draw.command()).collect();
        let mut run = Run::new(Counted::over(group(dir.path(), 1)));
        // At least one flush, and writes behind the last one.
        let flushes = [draw.below(10), 10 + draw.below(30)];
        for (n, command) in commands.iter().enumerate() {
            run.command(command);
            if flushes.contains(&(n as u64)) {
                run.replica.group.store().flush().unwrap();
            }
        }
        let durable = commits(run.replica.group.durable_applied().unwrap()).unwrap();
        assert_eq!(durable, flushes[1] + 1);
        let left = TempDir::new().unwrap();
        copy(dir.path(), left.path());
        let mut killed = Run::new(Counted::over(group(left.path(), 1)));
        assert_eq!(commits(killed.replica.group.applied().unwrap()), Some(durable));
        killed.replica.commits = durable;
        // The same rows as a store that was only ever given those commands.
        let (done, lost) = commands.split_at(durable as usize);
        let fresh = TempDir::new().unwrap();
        let mut wanted = Run::new(Counted::over(group(fresh.path(), 1)));
        done.iter().for_each(|command| drop(wanted.command(command)));
        assert_eq!(chunks(&killed.replica.group), chunks(&wanted.replica.group), "seed {seed}");
        // Applied again from the log, it is what it was before the kill.
        lost.iter().for_each(|command| drop(killed.command(command)));
        assert_eq!(chunks(&killed.replica.group), chunks(&run.replica.group), "seed {seed}");
    }
}

/// Writes until it is killed, and says how far it has come and what of that is durable.
fn write_until_killed(dir: &std::path::Path) {
    // Small write buffers: RocksDB flushes by itself, in the middle of what is written.
    let budget = Budget { block_cache_bytes: 1 << 20, write_buffer_bytes: 64 << 10 };
    let store = Arc::new(RocksStore::open(dir, budget).unwrap());
    let mut run = Run::new(Counted::over(Group::open(store, GroupId(1)).unwrap()));
    for n in 0.. {
        run.command(&nth(n));
        let durable = commits(run.replica.group.durable_applied().unwrap());
        println!("written {} durable {}", n + 1, durable.unwrap_or(0));
    }
}

/// Small commands that meet, and every fourth one a value that fills memory.
fn nth(n: u64) -> Command {
    let mut command = Draw(n).command();
    if n.is_multiple_of(4) {
        let value = vec![n as u8; 6000].into();
        let key = key(&n.to_be_bytes());
        command.write = Write::Put { key, value, condition: Condition::Always };
    }
    command
}

#[test]
fn a_killed_process_leaves_what_it_called_durable_and_a_whole_number_of_commands() {
    const WRITE: &str = "STEMEDB_TEST_WRITE_STORE";
    if let Some(dir) = std::env::var_os(WRITE) {
        write_until_killed(dir.as_ref());
    }
    for kill_after in [1, 100, 400] {
        let dir = TempDir::new().unwrap();
        let name =
            "crash::a_killed_process_leaves_what_it_called_durable_and_a_whole_number_of_commands";
        let mut other = process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(WRITE, dir.path())
            .stdout(process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(other.stdout.take().unwrap()).lines().map_while(Result::ok);
        let told = lines.filter_map(|line| {
            let (written, durable) = line.strip_prefix("written ")?.split_once(" durable ")?;
            Some((written.parse::<u64>().ok()?, durable.parse::<u64>().ok()?))
        });
        let mut told = told.skip_while(|(written, _)| *written < kill_after);
        let (written, durable) = told.next().unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(durable < written);
        let killed = group(dir.path(), 1);
        let found = commits(killed.applied().unwrap()).unwrap_or(0);
        assert!(durable <= found, "{durable} were durable, {found} are there");
        assert!(durable > 0 || kill_after < 400, "{durable} of {written}");
        let fresh = TempDir::new().unwrap();
        let mut wanted = Run::new(Counted::over(group(fresh.path(), 1)));
        (0..found).for_each(|n| drop(wanted.command(&nth(n))));
        assert_eq!(chunks(&killed), chunks(&wanted.replica.group));
    }
}

#[test]
fn a_store_that_was_closed_opens_where_it_was() {
    let dir = TempDir::new().unwrap();
    let before = {
        let mut run = Run::new(Counted::over(group(dir.path(), 1)));
        let mut plain = Run::new(MapView::default());
        let mut draw = Draw(11);
        for _ in 0..50 {
            let command = draw.command();
            assert_eq!(run.command(&command), plain.command(&command));
        }
        run.replica.group.store().flush().unwrap();
        chunks(&run.replica.group)
    };
    let store = open(dir.path());
    assert!(store.disk_bytes() > 0);
    let again = Group::open(store, GroupId(1)).unwrap();
    assert_eq!(chunks(&again), before);
}
