//! A log without threads: what its owner may rely on between two steps and inside one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{Completion, Driver, Error, OpenError, Options, StreamId, Wal};

use crate::common::*;

/// A driven log, and how often its owner was told that a step is due.
struct Driven {
    wal: Wal,
    driver: Driver,
    wakes: Arc<AtomicUsize>,
}

impl Driven {
    fn open(disk: &SimDisk) -> Self {
        Self::open_with(disk, small())
    }

    fn open_with(disk: &SimDisk, options: Options) -> Self {
        let wakes = Arc::new(AtomicUsize::new(0));
        let count = wakes.clone();
        let wake = Box::new(move || _ = count.fetch_add(1, Ordering::SeqCst));
        let opened = Wal::open_driven(Arc::new(disk.clone()), options, wake);
        let (wal, driver, _) = opened.unwrap();
        Self { wal, driver, wakes }
    }

    /// Past the first step.
    fn begun(disk: &SimDisk) -> Self {
        let driven = Self::open(disk);
        assert!(driven.driver.step() && !driven.driver.step());
        driven
    }

    fn append(&self, stream: StreamId, index: u64, text: &str, done: Completion) {
        self.wal.append(stream, index, payloads(&[text]), done).unwrap();
    }

    fn wakes(&self) -> usize {
        self.wakes.load(Ordering::SeqCst)
    }

    /// How many steps there are to do.
    fn step_on(&self) -> usize {
        (0..).take_while(|_| self.driver.step()).count()
    }
}

/// What a power cut leaves: nothing but what was synced.
fn after_power_cut(disk: &SimDisk) -> Wal {
    open(&disk.restart(&mut |_| 0))
}

/// What was told, in order.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn note(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }

    fn so_far(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn done(&self, what: &'static str) -> Completion {
        let told = self.clone();
        Box::new(move |result: Result<(), Error>| {
            told.note(&match result {
                Ok(()) => what.to_owned(),
                Err(Error::Poisoned { .. }) => format!("{what} poisoned"),
                Err(error) => format!("{what}: {error}"),
            });
        })
    }
}

#[test]
fn nothing_is_written_before_a_step_and_nobody_is_called_before_its_sync() {
    let (disk, told) = (SimDisk::new(1), Told::default());
    let driven = Driven::begun(&disk);
    let before = image(&disk);
    let (syncs, within) = (disk.syncs(), disk.clone());
    let durable = told.done("durable");
    let done = Box::new(move |result| {
        assert_eq!(within.syncs(), syncs + 1);
        assert_eq!(texts(&after_power_cut(&within), A), ["one"]);
        durable(result);
    });
    driven.append(A, 1, "one", done);
    driven.append(B, 1, "other", told.done("other"));
    assert_eq!(texts(&driven.wal, A), ["one"]);
    assert!(image(&disk) == before && told.so_far().is_empty());

    assert!(driven.driver.step());
    assert_eq!((told.so_far(), disk.syncs()), (vec!["durable".into(), "other".into()], syncs + 1));
    assert!(!driven.driver.step());
}

#[test]
fn the_owner_is_woken_where_the_thread_would_be() {
    let driven = Driven::begun(&SimDisk::new(1));
    let before = driven.wakes();
    driven.wal.mark(A, 1, Bytes::new(), None).unwrap();
    assert_eq!(driven.wakes(), before, "nobody waits for this one");
    assert!(!driven.driver.step());
    driven.append(A, 1, "one", done().0);
    assert_eq!(driven.wakes(), before + 1);
    driven.append(A, 2, "two", done().0);
    assert_eq!(driven.wakes(), before + 1, "the step is due already");
    assert_eq!((driven.step_on(), driven.wakes()), (1, before + 1));
    driven.wal.close().unwrap();
    assert_eq!(driven.wakes(), before + 2);
}

#[test]
fn a_closed_log_is_stepped_to_its_end_and_holds_everything() {
    let (disk, told) = (SimDisk::new(1), Told::default());
    let driven = Driven::begun(&disk);
    driven.append(A, 1, "one", told.done("one"));
    driven.wal.mark(A, 1, Bytes::from_static(b"at the end"), None).unwrap();
    assert_eq!(driven.wal.close(), Ok(()));
    assert_eq!(told.so_far(), [""; 0], "the close does not write");
    let refused = driven.wal.append(A, 2, payloads(&["late"]), done().0);
    assert_eq!(refused, Err(Error::Closed));

    let syncs = disk.syncs();
    assert_eq!((driven.step_on(), disk.syncs() - syncs), (2, 2), "a round and the closing batch");
    assert_eq!((driven.wal.close(), driven.step_on()), (Ok(()), 0));
    assert_eq!(told.so_far(), ["one"]);
    assert!(matches!(try_open(&disk), Err(OpenError::InUse)));
    drop(driven);
    let wal = open(&disk);
    assert_eq!(texts(&wal, A), ["one"]);
    assert_eq!(wal.mark_value(A, 1), Some(Bytes::from_static(b"at the end")));
}

#[test]
fn a_thread_and_an_owner_leave_the_same_bytes() {
    // Intent: one change at a time, so that the thread has no choice what it writes together.
    let (alone, stepped) = (SimDisk::new(1), SimDisk::new(1));
    let (thread, driven) = (open(&alone), Driven::begun(&stepped));
    for index in 1..300u64 {
        let text = "x".repeat(100);
        append(&thread, A, index, &[&text]);
        driven.append(A, index, &text, done().0);
        driven.step_on();
        if index % 7 == 0 {
            purge(&thread, A, index - 3, "note");
            let note = Bytes::from_static(b"note");
            driven.wal.purge_to(A, index - 3, note, Some(done().0)).unwrap();
            driven.step_on();
        }
    }
    thread.close().unwrap();
    driven.wal.close().unwrap();
    driven.step_on();
    assert!(image(&alone) == image(&stepped));
}

#[test]
fn the_first_step_lets_go_of_what_an_earlier_process_left() {
    let disk = SimDisk::new(1);
    let driven = Driven::begun(&disk);
    for index in 1..100u64 {
        driven.append(A, index, &"x".repeat(100), done().0);
    }
    driven.step_on();
    let (send, killed) = channel();
    let within = disk.clone();
    // The process dies before the round is over: files go behind the completions.
    let kill = Box::new(move |_| send.send(within.copy()).unwrap());
    driven.wal.purge_to(A, 99, Bytes::new(), Some(kill)).unwrap();
    driven.step_on();
    let disk = killed.recv().unwrap();
    let driven = Driven::open(&disk);
    let before = segments(&disk).len();
    assert!(driven.driver.step());
    assert!(segments(&disk).len() == 1 && before > 1, "{before}");
}

#[test]
fn a_failed_sync_is_told_to_all_that_wait_and_ends_the_log() {
    let (disk, told) = (SimDisk::new(1), Told::default());
    let driven = Driven::open_with(&disk, Options { queue_bytes_max: 100, ..small() });
    driven.step_on();
    disk.fail_syncs_after(0);
    let (again, wal) = (told.clone(), driven.wal.clone());
    let appends = Box::new(move |_| {
        let late = wal.append(B, 1, payloads(&["late"]), done().0);
        assert!(matches!(late, Err(Error::Poisoned { .. })));
        again.note("one");
    });
    driven.append(A, 1, "one", appends);
    driven.wal.mark(A, 1, Bytes::new(), Some(told.done("mark"))).unwrap();
    assert_eq!(driven.wal.append(A, 2, payloads(&["x"]), done().0), Err(Error::Busy));
    let room = told.clone();
    driven.wal.when_room(Box::new(move || room.note("room")));
    assert_eq!(driven.step_on(), 1);
    assert_eq!(told.so_far(), ["one", "mark poisoned", "room"]);
    assert!(matches!(driven.wal.close(), Err(Error::Poisoned { .. })));
    assert_eq!(driven.step_on(), 0);
}

#[test]
fn a_full_disk_ends_the_log_for_nobody_makes_room_ahead() {
    let (disk, told) = (SimDisk::new(1), Told::default());
    let driven = Driven::begun(&disk);
    disk.limit_space(Some(disk.used_bytes()));
    driven.append(A, 1, &"x".repeat(3000), told.done("fits"));
    driven.append(A, 2, &"x".repeat(3000), told.done("does not"));
    driven.step_on();
    assert_eq!(told.so_far(), ["fits poisoned", "does not poisoned"]);
    assert!(driven.wal.poisoned().unwrap().contains("make 0000000000000002.wal"));
}

#[test]
fn what_a_completion_appends_is_written_by_a_later_step() {
    let (disk, told) = (SimDisk::new(1), Told::default());
    let driven = Driven::begun(&disk);
    let (wal, first, second) = (driven.wal.clone(), told.clone(), told.done("two"));
    let done = Box::new(move |_| {
        wal.append(A, 2, payloads(&["two"]), second).unwrap();
        first.note("one");
    });
    driven.append(A, 1, "one", done);
    let wakes = driven.wakes();
    assert!(driven.driver.step());
    assert_eq!(told.so_far(), ["one"]);
    assert!(driven.wakes() > wakes, "another step is due");
    assert_eq!(texts(&open(&disk.copy()), A), ["one"]);
    assert_eq!(driven.step_on(), 1);
    assert_eq!(told.so_far(), ["one", "two"]);
    assert_eq!(texts(&after_power_cut(&disk), A), ["one", "two"]);
}

#[test]
fn a_crash_between_two_steps_loses_only_what_was_not_completed() {
    let (disk, told) = (SimDisk::new(1), Told::default());
    let driven = Driven::begun(&disk);
    driven.append(A, 1, "stepped", told.done("stepped"));
    driven.step_on();
    driven.append(A, 2, "queued", told.done("queued"));
    let after = disk.restart(&mut |_| 0);
    drop(driven);
    assert_eq!(told.so_far(), ["stepped"], "nobody is called by a process that is dead");
    assert_eq!(texts(&open(&after), A), ["stepped"]);
}

#[test]
fn inside_a_completion_a_step_does_nothing_and_who_would_block_is_told() {
    let disk = SimDisk::new(1);
    let driven = Driven::begun(&disk);
    let (wal, wakes) = (driven.wal.clone(), driven.wakes.clone());
    let driver = Arc::new(driven.driver);
    let (within, told) = (driver.clone(), Told::default());
    let note = told.clone();
    let done = Box::new({
        let wal = wal.clone();
        move |_| {
            assert!(!within.step());
            assert_eq!(wal.append_durable(B, 1, payloads(&["never"])), Err(Error::Busy));
            assert_eq!(wal.close(), Ok(()));
            note.note("through");
        }
    });
    wal.append(A, 1, payloads(&["one"]), done).unwrap();
    assert!(driver.step());
    assert_eq!(told.so_far(), ["through"]);
    assert!(wakes.load(Ordering::SeqCst) > 0 && driver.step() && !driver.step());
}

#[test]
fn the_last_handle_may_be_dropped_inside_a_completion_and_the_log_ends_by_steps() {
    let (disk, told) = (SimDisk::new(1), Told::default());
    let Driven { wal, driver, .. } = Driven::begun(&disk);
    let own = Mutex::new(Some(wal.clone()));
    let gone = told.done("dropped");
    let done = Box::new(move |result| {
        own.lock().unwrap().take();
        gone(result);
    });
    wal.append(A, 1, payloads(&["one"]), done).unwrap();
    drop(wal);
    assert!(driver.step());
    assert_eq!(told.so_far(), ["dropped"]);
    assert!(driver.step() && !driver.step(), "the closing batch, once");
    drop(driver);
    assert_eq!(texts(&open(&disk), A), ["one"]);
}

#[test]
fn who_blocks_writes_all_that_is_queued_himself() {
    let (disk, told) = (SimDisk::new(1), Told::default());
    let driven = Driven::open_with(&disk, Options { queue_bytes_max: 300, ..small() });
    // Even before the first step.
    driven.append(A, 1, "queued", told.done("queued"));
    driven.wal.append_durable(B, 1, payloads(&["durable"])).unwrap();
    assert_eq!(told.so_far(), ["queued"]);
    // And makes the room himself.
    driven.append(A, 2, &"x".repeat(300), told.done("long"));
    assert_eq!(driven.wal.append(A, 3, payloads(&["x"]), done().0), Err(Error::Busy));
    driven.wal.append_durable(A, 3, payloads(&["durable"])).unwrap();
    assert_eq!(told.so_far(), ["queued", "long"]);
    let survived = after_power_cut(&disk);
    assert_eq!((texts(&survived, A).len(), texts(&survived, B)), (3, vec!["durable".to_owned()]));
}

#[test]
fn a_step_that_came_too_early_is_due_again_when_the_turn_is_free() {
    // Intent: a caller writes while another one queues, and the owner steps in vain.
    let driven = Driven::begun(&SimDisk::new(1));
    let (entered, inside) = channel();
    let (go, gate) = channel::<()>();
    let held = Box::new(move |_| {
        entered.send(()).unwrap();
        gate.recv().unwrap();
    });
    driven.append(A, 1, "held", held);
    thread::scope(|scope| {
        let blocked = scope.spawn(|| driven.wal.append_durable(B, 1, payloads(&["durable"])));
        inside.recv().unwrap();
        driven.append(A, 2, "meanwhile", done().0);
        assert!(!driven.driver.step());
        let wakes = driven.wakes();
        go.send(()).unwrap();
        assert_eq!(blocked.join().unwrap(), Ok(()));
        assert_eq!((driven.wakes(), driven.step_on()), (wakes + 1, 1));
    });
}

#[test]
fn many_may_block_on_a_driven_log_as_long_as_somebody_steps() {
    const WRITERS: usize = 6;
    let (send, woken) = channel();
    let (done, finished) = (send.clone(), AtomicUsize::new(0));
    let wake = Box::new(move || _ = send.send(()));
    let options = Options { queue_bytes_max: 500, ..small() };
    let opened = Wal::open_driven(Arc::new(SimDisk::new(1)), options, wake);
    let (wal, driver, _) = opened.unwrap();
    let write = |stream| {
        for index in 1..=100 {
            wal.append_durable(stream, index, payloads(&["x"])).unwrap();
        }
        finished.fetch_add(1, Ordering::SeqCst);
        done.send(()).unwrap();
    };
    thread::scope(|scope| {
        for number in 1..=WRITERS as u64 {
            let write = &write;
            scope.spawn(move || write(StreamId(number)));
        }
        while finished.load(Ordering::SeqCst) < WRITERS {
            woken.recv_timeout(Duration::from_secs(60)).expect("no wake is lost");
            while driver.step() {}
        }
    });
    assert!((1..=WRITERS as u64).all(|number| texts(&wal, StreamId(number)).len() == 100));
}

#[test]
fn with_its_driver_gone_a_log_drops_what_waits_and_takes_nothing_more() {
    let (disk, told) = (SimDisk::new(1), Told::default());
    let Driven { wal, driver, .. } = Driven::begun(&disk);
    let (own, queued) = (wal.clone(), told.done("queued"));
    let holds_a_handle = Box::new(move |result| {
        queued(result);
        drop(own);
    });
    wal.append(A, 1, payloads(&["lost"]), holds_a_handle).unwrap();
    drop(driver);
    assert_eq!(told.so_far(), [""; 0]);
    let refused = wal.append_durable(A, 2, payloads(&["late"]));
    assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
    drop(wal);
    assert_eq!(texts(&open(&disk), A), [""; 0], "nobody holds the directory");
}

#[test]
fn a_helper_thread_is_not_to_be_had() {
    let options = Options { spare_segments: 1, ..small() };
    let opened = Wal::open_driven(Arc::new(SimDisk::new(1)), options, Box::new(|| {}));
    assert!(matches!(opened, Err(OpenError::Options(_))));
}
