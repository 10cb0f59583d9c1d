//! Callers that block until their entries are durable.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Error, Options, StreamId, Wal};

use crate::common::{A, B, Hooked, append, open, payloads, small, synced, texts};

#[test]
fn what_a_blocked_caller_was_told_survives_a_power_cut() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    wal.append_durable(A, 1, payloads(&["one", "two"])).unwrap();
    let after_power_cut = open(&disk.restart(&mut |_| 0));
    assert_eq!(texts(&after_power_cut, A), ["one", "two"]);
}

#[test]
fn many_that_block_at_once_are_all_let_go_and_each_entry_is_there() {
    // Intent: threads that block, threads that wait for completions and marks nobody waits for
    // meet in the same rounds; nobody is forgotten behind a gate and nothing is lost.
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    thread::scope(|scope| {
        for number in 1..=12u64 {
            let wal = &wal;
            scope.spawn(move || {
                let stream = StreamId(number);
                for index in 1..=100 {
                    let entry = payloads(&[&format!("{number}/{index}")]);
                    match number % 3 {
                        0 => synced(|done| wal.append(stream, index, entry, done)).unwrap(),
                        _ => wal.append_durable(stream, index, entry).unwrap(),
                    }
                    wal.mark(stream, 1, bytes::Bytes::new(), None).unwrap();
                }
            });
        }
    });
    let after_power_cut = open(&disk.restart(&mut |_| 0));
    for number in 1..=12 {
        let expected: Vec<_> = (1..=100).map(|index| format!("{number}/{index}")).collect();
        assert_eq!(texts(&after_power_cut, StreamId(number)), expected);
    }
}

#[test]
fn a_caller_alone_writes_itself_and_syncs_once() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    append(&wal, A, 1, &["the writer rests behind this"]);
    let before = disk.syncs();
    for index in 2..12 {
        wal.append_durable(A, index, payloads(&["alone"])).unwrap();
    }
    assert_eq!(disk.syncs() - before, 10);
    assert_eq!(texts(&wal, A).len(), 11);
}

#[test]
fn a_failed_sync_is_told_to_every_blocked_caller_and_to_the_next() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    disk.fail_syncs_after(0);
    thread::scope(|scope| {
        for number in 1..=8u64 {
            let wal = &wal;
            scope.spawn(move || {
                let told = wal.append_durable(StreamId(number), 1, payloads(&["lost"]));
                assert!(matches!(told, Err(Error::Poisoned { .. })), "{told:?}");
            });
        }
    });
    let told = wal.append_durable(StreamId(9), 1, payloads(&["late"]));
    assert!(matches!(told, Err(Error::Poisoned { .. })), "{told:?}");
}

#[test]
fn a_completion_is_told_that_it_must_not_block() {
    let wal = open(&SimDisk::new(1));
    let (send, told) = channel();
    let within = wal.clone();
    let completion = move |_| drop(send.send(within.append_durable(B, 1, payloads(&["never"]))));
    wal.append(A, 1, payloads(&["one"]), Box::new(completion)).unwrap();
    assert_eq!(told.recv().unwrap(), Err(Error::Busy));
    assert_eq!(texts(&wal, B), [""; 0]);
}

#[test]
fn a_blocked_caller_waits_for_room_in_the_queue() {
    let options = Options { queue_bytes_max: 1, ..small() };
    let (wal, _) = Wal::open_on(Arc::new(SimDisk::new(1)), options).unwrap();
    thread::scope(|scope| {
        for number in 1..=8u64 {
            let wal = &wal;
            scope.spawn(move || {
                for index in 1..=50 {
                    wal.append_durable(StreamId(number), index, payloads(&["x"])).unwrap();
                }
            });
        }
    });
    assert!((1..=8).all(|number| texts(&wal, StreamId(number)).len() == 50));
}

#[test]
fn a_completion_may_close_the_log_when_it_is_a_caller_whose_write_failed() {
    // Intent: the caller that has the turn tells everybody who queued meanwhile, on its thread.
    let (entered, inside) = channel();
    let (go, gate) = channel();
    // The next sync fails, once it has said that it is there and was told to go on.
    let failing: Arc<Mutex<Option<Turn>>> = Arc::default();
    let next = failing.clone();
    let hook = move |what: &str, _: &str| {
        if what != "sync" {
            return Ok(());
        }
        let Some((entered, gate)) = next.lock().unwrap().take() else { return Ok(()) };
        entered.send(()).unwrap();
        gate.recv().unwrap();
        Err(io::Error::other("the sync failed on demand"))
    };
    let (wal, _) = Wal::open_on(Hooked::on(&SimDisk::new(1), hook), small()).unwrap();
    append(&wal, A, 1, &["the writer rests a moment behind this"]);
    thread::sleep(Duration::from_millis(50));
    *failing.lock().unwrap() = Some((entered, gate));
    let (caller, within) = (wal.clone(), wal.clone());
    let blocked = thread::spawn(move || caller.append_durable(A, 2, payloads(&["lost"])));
    inside.recv().unwrap();
    let (send, closed) = channel();
    let close = Box::new(move |_| send.send(within.close()).unwrap());
    wal.append(B, 1, payloads(&["lost too"]), close).unwrap();
    go.send(()).unwrap();
    let Ok(closed) = closed.recv_timeout(Duration::from_secs(20)) else {
        std::mem::forget(wal);
        panic!("the log waits for itself");
    };
    assert!(matches!(closed, Err(Error::Poisoned { .. })), "{closed:?}");
    assert!(matches!(blocked.join().unwrap(), Err(Error::Poisoned { .. })));
}

/// Where a sync says that it is there, and hears that it may go on.
type Turn = (Sender<()>, Receiver<()>);
