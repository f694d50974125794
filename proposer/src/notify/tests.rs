use paxos::ids::{NodeId, Slot};
use paxos::machine::Applied;

use super::*;

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client that answers every connection with the same text, and keeps what it was sent.
struct Client {
    target: Target,
    got: Arc<Mutex<Vec<String>>>,
    count: watch::Receiver<usize>,
}

impl Client {
    async fn start(answer: &'static str) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let (counter, count) = watch::channel(0);
        let got: Arc<Mutex<Vec<String>>> = Arc::default();
        let all = got.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let mut length = 0;
                // The body is an object, and comes last.
                while !request[..length].ends_with(b"}") {
                    let read = stream.read(&mut request[length..]).await.unwrap();
                    assert!(read > 0, "cut off after {length} bytes");
                    length += read;
                }
                let request = String::from_utf8(request[..length].to_vec()).unwrap();
                all.lock().unwrap().push(request);
                stream.write_all(answer.as_bytes()).await.unwrap();
                counter.send_modify(|count| *count += 1);
            }
        });
        Client { target, got, count }
    }

    async fn wait_for(&mut self, count: usize) -> Vec<String> {
        let enough = self.count.wait_for(|got| *got >= count);
        let enough = tokio::time::timeout(PATIENCE, enough).await;
        enough.expect("the client is notified").unwrap();
        self.got.lock().unwrap().clone()
    }
}

fn metrics() -> Arc<Metrics> {
    let config = Config::new(Role::Learner, NodeId::new(1).unwrap());
    Arc::new(Metrics::new(&config).unwrap())
}

/// Learner `id` of as many.
fn notifier(id: u8, learners: usize, targets: &[&Target], metrics: &Arc<Metrics>) -> Notifier {
    let config = Config {
        learners: vec!["l:1".to_owned(); learners],
        notify_clients: targets.iter().map(|target| (*target).clone()).collect(),
        ..Config::new(Role::Learner, NodeId::new(id).unwrap())
    };
    let addresses = Addresses::start(&config).unwrap();
    Notifier::start(&config, &addresses, metrics).unwrap()
}

fn entry(slot: u64, client_id: &str, operation: Operation, outcome: Outcome) -> Entry {
    let value = Command {
        operation,
        timestamp: 1000 + slot,
        if_version: None,
        if_instance: None,
        sequence: None,
        client_id,
        request_id: None,
        resource: "colour",
        data: b"1",
    }
    .encode();
    let slot = Slot(slot);
    Entry {
        slot,
        value,
        applied: Applied { slot, outcome },
    }
}

fn written(slot: u64, client: &Target) -> Entry {
    let outcome = Outcome::Committed { version: 1 };
    entry(slot, &client.to_string(), Operation::Write, outcome)
}

async fn wait_for(metrics: &Metrics, outcome: &str, count: u64) {
    let counter = metrics.notifications.with_label_values(&[outcome]);
    for _ in 0..PATIENCE.as_millis() / 5 {
        if counter.get() >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{} {outcome}, not {count}", counter.get());
}

const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";

#[test]
fn an_address_has_one_spelling() {
    for (text, target) in [
        ("Client", "client:80"),
        ("client:8080", "client:8080"),
        ("10.0.0.1", "10.0.0.1:80"),
        ("[::1]:9", "[::1]:9"),
    ] {
        assert_eq!(Target::parse(text).unwrap().to_string(), target);
    }
    for bad in [
        "", ":80", "a:", "a:0", "a:x", "a:70000", "u@a", "a/b", "http://a", "a b", "a?b", "*",
    ] {
        assert_eq!(Target::parse(bad), None, "{bad}");
    }
}

#[tokio::test]
async fn a_client_is_told_of_its_committed_writes_and_of_nothing_else() {
    let mut client = Client::start(OK).await;
    let metrics = metrics();
    let notifier = notifier(1, 1, &[&client.target], &metrics);
    let me = client.target.to_string();
    let mut again = written(4, &client.target);
    again.applied.slot = Slot(1);
    notifier.applied(&[
        written(1, &client.target),
        entry(
            2,
            &me,
            Operation::Write,
            Outcome::NotCommitted {
                version: 1,
                instance: None,
            },
        ),
        entry(3, &me, Operation::Read, Outcome::Read(None)),
        again,
        entry(
            5,
            "127.0.0.1:1",
            Operation::Write,
            Outcome::Committed { version: 2 },
        ),
        entry(
            6,
            "no address",
            Operation::Write,
            Outcome::Committed { version: 3 },
        ),
        entry(7, &me, Operation::Delete, Outcome::Committed { version: 4 }),
    ]);
    let got = client.wait_for(2).await;
    wait_for(&metrics, "sent", 2).await;
    assert_eq!(got.len(), 2, "{got:?}");
    assert!(
        got[0].starts_with("POST /notification HTTP/1.1\r\n"),
        "{}",
        got[0]
    );
    assert!(got[0].contains(&format!("host: {me}\r\n")), "{}", got[0]);
    let body = r#"{"status":"COMMITTED","instanceId":1,"resource":"colour","timestamp":1001}"#;
    assert!(got[0].ends_with(body), "{}", got[0]);
    assert!(got[1].contains(r#""instanceId":7"#), "{}", got[1]);
}

#[tokio::test]
async fn of_several_learners_exactly_one_tells() {
    let mut client = Client::start(OK).await;
    let metrics = metrics();
    let entries: Vec<Entry> = (1..=9).map(|slot| written(slot, &client.target)).collect();
    for id in 1..=3 {
        notifier(id, 3, &[&client.target], &metrics).applied(&entries);
    }
    wait_for(&metrics, "sent", 9).await;
    let got = client.wait_for(9).await;
    for slot in 1..=9 {
        let of_slot = |got: &&String| got.contains(&format!(r#""instanceId":{slot},"#));
        assert_eq!(got.iter().filter(of_slot).count(), 1, "{slot}: {got:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Client::start(OK).await;
    let answer = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{}/notification\r\n\r\n",
        elsewhere.target
    );
    let mut client = Client::start(answer.leak()).await;
    let metrics = metrics();
    let notifier = notifier(1, 1, &[&client.target], &metrics);
    notifier.applied(&[written(1, &client.target)]);
    wait_for(&metrics, "failed", 1).await;
    assert_eq!(client.wait_for(1).await.len(), 1);
    assert_eq!(elsewhere.got.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_dead_client_holds_up_nobody_and_its_backlog_is_bounded() {
    // Takes connections into its backlog and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = Target::parse(&silent.local_addr().unwrap().to_string()).unwrap();
    let mut client = Client::start(OK).await;
    let metrics = metrics();
    let notifier = notifier(1, 1, &[&dead, &client.target], &metrics);
    let many = QUEUE as u64 + 100;
    let entries: Vec<Entry> = (1..=many).map(|slot| written(slot, &dead)).collect();
    notifier.applied(&entries);
    notifier.applied(&[written(many + 1, &client.target)]);
    client.wait_for(1).await;
    assert!(metrics.notifications.with_label_values(&["dropped"]).get() >= 99);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = Target::parse(&gone.local_addr().unwrap().to_string()).unwrap();
    drop(gone);
    let before = metrics.notifications.with_label_values(&["failed"]).get();
    self::notifier(1, 1, &[&refusing], &metrics).applied(&[written(1, &refusing)]);
    wait_for(&metrics, "failed", before + 1).await;
}
