//! The clients and the judge against a gateway in this process: one that is honest, and some that
//! are not. What these do wrong is what a run must be able to see.

use http::{Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use stemedb_sim::checks::linearizable::Verdict;
use tokio::net::TcpListener;
use tokio::task::{JoinSet, LocalSet, spawn_local};

use super::*;

/// Every so many-th operation of its kind goes wrong.
const WRONG_EVERY: u64 = 15;
/// A run is over with so many acknowledged writes.
const ENOUGH: u64 = 600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    Honest,
    /// Acknowledges writes it does not do.
    LosesWrites,
    /// Answers with what was there before.
    ReadsThePast,
    /// Does a write once more when somebody looks.
    WritesTwice,
    /// Says 503 to writes it does.
    DoesWhatItRefuses,
}

type Row = (Bytes, u64);

struct Gateway {
    habit: Habit,
    rows: RefCell<BTreeMap<String, Row>>,
    past: RefCell<BTreeMap<String, Row>>,
    revision: Cell<u64>,
    asked: Cell<u64>,
}

impl Gateway {
    async fn listen(habit: Habit) -> SocketAddr {
        let (rows, past) = (RefCell::default(), RefCell::default());
        let (revision, asked) = (Cell::new(0), Cell::new(0));
        let gateway = Rc::new(Gateway { habit, rows, past, revision, asked });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let gateway = gateway.clone();
                let service = service_fn(move |request| gateway.clone().answer(request));
                spawn_local(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        address
    }

    /// Whether it does wrong this time, if this is its habit.
    fn wrong(&self, habit: Habit) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.habit == habit && self.asked.get().is_multiple_of(WRONG_EVERY)
    }

    fn write(&self, key: &str, value: Bytes) -> u64 {
        let revision = self.revision.get() + 1;
        self.revision.set(revision);
        let old = self.rows.borrow_mut().insert(key.to_owned(), (value, revision));
        if let Some(old) = old {
            self.past.borrow_mut().insert(key.to_owned(), old);
        }
        revision
    }

    fn read(&self, key: &str) -> Option<Row> {
        let before = self.past.borrow().get(key).cloned();
        if let Some((value, revision)) = before {
            if self.wrong(Habit::ReadsThePast) {
                return Some((value, revision));
            }
            if self.wrong(Habit::WritesTwice) {
                self.write(key, value);
            }
        }
        self.rows.borrow().get(key).cloned()
    }

    async fn answer(self: Rc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let value = body.collect().await?.to_bytes();
        let key = head.uri.path().to_owned();
        let etag = |revision: u64| format!("\"{revision}\"");
        let answer = |status: u16, etag: Option<String>, body: Bytes| {
            let mut answer = Response::builder().status(status);
            if let Some(etag) = etag {
                answer = answer.header(ETAG, etag);
            }
            Ok(answer.body(Full::new(body))?)
        };
        if head.method == Method::GET {
            return match self.read(&key) {
                Some((value, revision)) => answer(200, Some(etag(revision)), value),
                None => answer(404, None, Bytes::new()),
            };
        }
        let held = self.rows.borrow().get(&key).map(|(_, revision)| etag(*revision));
        let wanted = head.headers.get(IF_MATCH).map(|wanted| wanted.to_str().unwrap().to_owned());
        let fits = match wanted {
            Some(wanted) => held == Some(wanted),
            None => !head.headers.contains_key(IF_NONE_MATCH) || held.is_none(),
        };
        if !fits {
            return answer(412, None, Bytes::new());
        }
        if self.wrong(Habit::LosesWrites) {
            return answer(200, Some(etag(self.revision.get())), Bytes::new());
        }
        let revision = self.write(&key, value);
        if self.wrong(Habit::DoesWhatItRefuses) {
            return answer(503, None, Bytes::new());
        }
        answer(200, Some(etag(revision)), Bytes::new())
    }
}

async fn run(habit: Habit) -> Rc<Office> {
    let gateway = Gateway::listen(habit).await;
    let key = HeaderValue::from_static("k");
    let office = Rc::new(Office::new(vec![gateway], key, ANSWER_LIMIT));
    let mut working = JoinSet::new();
    (0..CLIENTS).for_each(|number| {
        working.spawn_local(work(number, office.clone(), 3));
    });
    while office.record.borrow().counts().acknowledged < ENOUGH {
        sleep(Duration::from_millis(10)).await;
    }
    office.over.set(true);
    while working.join_next().await.is_some() {}
    office
}

#[tokio::test]
async fn an_honest_gateway_is_believed() {
    let transcript = async {
        let office = run(Habit::Honest).await;
        let record = office.record.borrow();
        assert_eq!(record.verdict(), Verdict::Linearizable);
        assert_eq!(record.first_wrong(), None);
        let counts = record.counts();
        // All kinds of answers were there to be judged.
        assert!(counts.reads > 50 && counts.refused > 5, "{counts:?}");
        assert_eq!((counts.unknown, counts.not_applied), (0, 0));
        assert_eq!(record.gaps().len(), CLIENTS);
    };
    LocalSet::new().run_until(transcript).await;
}

#[tokio::test]
async fn a_gateway_that_does_wrong_now_and_then_is_found_out() {
    let transcript = async {
        for habit in
            [Habit::LosesWrites, Habit::ReadsThePast, Habit::WritesTwice, Habit::DoesWhatItRefuses]
        {
            let office = run(habit).await;
            let verdict = office.record.borrow().verdict();
            assert!(matches!(verdict, Verdict::Violated(_)), "{habit:?}: {verdict:?}");
        }
    };
    LocalSet::new().run_until(transcript).await;
}
