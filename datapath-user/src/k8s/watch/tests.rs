//! Watches that expire, against a server that speaks the API's protocol.

use super::*;
use crate::k8s::{Access, connect};
use axum::{
    Json, Router,
    body::Body,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures::stream;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How long the server may leave the client without news.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the server says to a request for Services.
#[derive(Clone)]
enum Answer {
    /// Only a status.
    Status(u16),
    /// A list of these.
    List(&'static [&'static str]),
    /// A watch.
    Watch(Vec<Line>),
}

/// What a watch says; at the end of its lines it ends too.
#[derive(Clone)]
enum Line {
    /// A Service.
    Added(&'static str),
    /// These were all.
    InitialEnd,
    /// What the client knows is too old.
    Expired,
    /// Nothing more, and no end.
    Silence,
}

/// The answers that are left, and the requests that have come.
type Script = Arc<Mutex<(VecDeque<Answer>, Vec<String>)>>;

#[tokio::test]
async fn watches_expired() {
    use Answer::{List, Status, Watch};
    use Line::{Added, Expired, InitialEnd, Silence};
    let first = |last: Vec<Line>| Watch([vec![Added("a"), Added("b"), InitialEnd], last].concat());
    let again = || Watch(vec![Added("a"), Added("c"), InitialEnd, Silence]);
    let told = ["a", "b", "listed a b", "a", "c", "listed a c"].as_slice();
    for (title, script, told) in [
        ("in the watch", vec![first(vec![Expired]), again()], told),
        ("when it is to go on", vec![first(vec![]), Status(GONE), again()], told),
        (
            "in the middle of the list",
            vec![Watch(vec![Added("a"), Added("b"), Expired]), again()],
            &["a", "b", "a", "c", "listed a c"],
        ),
        (
            "without streaming lists",
            vec![
                Status(422),
                List(&["a", "b"]),
                Watch(vec![Expired]),
                List(&["a", "c"]),
                Watch(vec![Silence]),
            ],
            told,
        ),
        (
            "without streaming lists, when it is to go on",
            vec![
                Status(422),
                List(&["a", "b"]),
                Status(GONE),
                List(&["a", "c"]),
                Watch(vec![Silence]),
            ],
            told,
        ),
    ] {
        let (script, server, url) = serve(script).await;
        let access = Access { servers: vec![url], ..Access::default() };
        let client = connect(&access).await.expect("a client");
        let (sender, mut news) = mpsc::channel(16);
        let tasks = watch(&client, "n1", &sender);
        for expected in told {
            let next = tokio::time::timeout(PATIENCE, news.recv()).await;
            let News::Event(event) = next.expect(title).expect("a sender") else {
                panic!("{title}: Services are not given up");
            };
            assert_eq!(describe(event), *expected, "{title}");
        }
        // The last watch says nothing that would tell of it.
        let asked = async {
            while !lock(&script).0.is_empty() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let asked = tokio::time::timeout(PATIENCE, asked).await;
        assert!(asked.is_ok(), "{title}: {:#?}", lock(&script).1);
        drop(tasks);
        server.abort();
    }
}

fn lock(script: &Script) -> MutexGuard<'_, (VecDeque<Answer>, Vec<String>)> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

fn describe(event: Event) -> String {
    match event {
        Event::Service(service) => service.name.name().to_owned(),
        Event::Listed(Kind::Service, names) => {
            let mut names: Vec<_> = names.iter().map(ObjectName::name).collect();
            names.sort_unstable();
            format!("listed {}", names.join(" "))
        }
        other => panic!("{other:?}"),
    }
}

/// Starts a server that answers requests for Services in turn, and none for other kinds.
async fn serve(answers: Vec<Answer>) -> (Script, tokio::task::JoinHandle<()>, String) {
    let script = Script::new(Mutex::new((answers.into(), Vec::new())));
    let router = Router::new()
        .route("/api/v1/services", get(services))
        .fallback(std::future::pending::<()>)
        .with_state(Arc::clone(&script));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let server = tokio::spawn(async move {
        axum::serve(listener, router).await.expect("a server");
    });
    (script, server, url)
}

async fn services(State(script): State<Script>, RawQuery(query): RawQuery) -> Response {
    let next = {
        let mut script = lock(&script);
        script.1.push(query.unwrap_or_default());
        script.0.pop_front()
    };
    match next {
        Some(Answer::Status(code)) => {
            (StatusCode::from_u16(code).expect("a code"), Json(status(code))).into_response()
        }
        Some(Answer::List(names)) => Json(json!({
            "apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": "10"},
            "items": names.iter().copied().map(service).collect::<Vec<_>>(),
        }))
        .into_response(),
        Some(Answer::Watch(lines)) => {
            let lines = stream::iter(lines).then(|line| async move {
                let event = match line {
                    Line::Added(name) => json!({"type": "ADDED", "object": service(name)}),
                    Line::InitialEnd => json!({"type": "BOOKMARK", "object": {
                        "apiVersion": "v1", "kind": "Service",
                        "metadata": {
                            "resourceVersion": "10",
                            "annotations": {"k8s.io/initial-events-end": "true"},
                        },
                    }}),
                    Line::Expired => json!({"type": "ERROR", "object": status(GONE)}),
                    Line::Silence => std::future::pending().await,
                };
                Ok::<_, Infallible>(format!("{event}\n"))
            });
            Body::from_stream(lines).into_response()
        }
        None => std::future::pending().await,
    }
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "ns", "resourceVersion": "10"},
    })
}

fn status(code: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": code,
        "reason": "Expired", "message": "too old resource version",
    })
}
