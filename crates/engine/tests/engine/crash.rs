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
    let budget =
        Budget { block_cache_bytes: 1 << 20, write_buffer_bytes: 64 << 10, ..Budget::default() };
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
        command.write =
            Write::Put { key, value, condition: Condition::Always, expires_at_ms: None };
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
        let mut told = told(&mut other).skip_while(|(written, _)| *written < kill_after);
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

/// Stops a process at some instant, takes its directory as it stands (hard links of the tables,
/// copies of the rest), and lets it go on: what a power cut then would leave, if the disk kept all that
/// was written. In the end it is killed.
#[test]
fn the_directory_at_any_instant_holds_what_was_called_durable_and_the_data_of_its_mark() {
    const WRITE: &str = "STEMEDB_TEST_WRITE_STORE";
    const ROUNDS: usize = 12;
    if let Some(dir) = std::env::var_os(WRITE) {
        write_until_killed(dir.as_ref());
    }
    let dir = TempDir::new().unwrap();
    let name = "crash::the_directory_at_any_instant_holds_what_was_called_durable_and_the_data_of_its_mark";
    let mut other = process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(WRITE, dir.path())
        .stdout(process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&other);
    let mut told = told(&mut other);
    let fresh = TempDir::new().unwrap();
    let mut wanted = Run::new(Counted::over(group(fresh.path(), 1)));
    let mut marks = Vec::new();
    for round in 0..ROUNDS as u64 {
        let (_, durable) = told.find(|(written, _)| *written >= 30 * round + 7).unwrap();
        stop(pid);
        let left = TempDir::new().unwrap();
        link(dir.path(), left.path());
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
        let stopped = group(left.path(), 1);
        let found = commits(stopped.applied().unwrap()).unwrap_or(0);
        assert!(durable <= found, "{durable} were durable, {found} are there");
        (wanted.replica.commits..found).for_each(|n| drop(wanted.command(&nth(n))));
        assert_eq!(chunks(&stopped), chunks(&wanted.replica.group), "round {round}");
        marks.push(found);
    }
    other.kill().unwrap();
    other.wait().unwrap();
    // It was caught at different places, and behind flushes of RocksDB's own.
    marks.dedup();
    assert!(marks.len() > 2 && marks.is_sorted(), "{marks:?}");
    let killed = group(dir.path(), 1);
    let found = commits(killed.applied().unwrap()).unwrap();
    assert!(found >= *marks.last().unwrap(), "{found} {marks:?}");
    (wanted.replica.commits..found).for_each(|n| drop(wanted.command(&nth(n))));
    assert_eq!(chunks(&killed), chunks(&wanted.replica.group));
}

/// What the writing process tells, as it tells it: (written, durable).
fn told(other: &mut process::Child) -> impl Iterator<Item = (u64, u64)> + use<> {
    let lines = BufReader::new(other.stdout.take().unwrap()).lines().map_while(Result::ok);
    lines.filter_map(|line| {
        let (written, durable) = line.strip_prefix("written ")?.split_once(" durable ")?;
        Some((written.parse().ok()?, durable.parse().ok()?))
    })
}

fn stop(pid: rustix::process::Pid) {
    use rustix::process::{Signal, WaitOptions, kill_process, waitpid};
    kill_process(pid, Signal::STOP).unwrap();
    let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
    assert!(status.stopped(), "{status:?}");
}

/// A copy in which tables, which never change once written, are the same files.
fn link(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            link(&path, &to);
        } else if path.extension().is_some_and(|end| end == "sst") {
            std::fs::hard_link(&path, to).unwrap();
        } else {
            std::fs::copy(&path, to).unwrap();
        }
    }
}
