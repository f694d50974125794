use std::convert::Infallible;

use axum::body::Body as HttpBodyBox;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tower::ServiceExt;

use super::*;

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "clientId")]
    client_id: String,
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    resource: String,
    value: Box<RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    from: u64,
    limit: Option<u16>,
}

fn app() -> Router {
    let entry = post(async |Body(entry): Body<Entry>| {
        let items = entry.data.iter();
        let items: Vec<_> = items
            .map(|i| format!("{}={}", i.resource, i.value))
            .collect();
        format!("{} {}", entry.client_id, items.join(","))
    });
    let small = BodyLimits {
        max_bytes: 4,
        read_timeout: Duration::from_millis(20),
        kind: Kind::Bodies,
    };
    finish(
        Router::new()
            .route("/entry", entry)
            .route(
                "/page",
                get(async |Params(p): Params<Page>| format!("{} {:?}", p.from, p.limit)),
            )
            .route(
                "/instance/{id}",
                get(async |PathParams(id): PathParams<u64>| id.to_string()),
            )
            .route("/any", post(async |Body(any): Body<Value>| any.to_string()))
            .route("/raw", post(async |Raw(bytes): Raw| bytes))
            .route(
                "/small",
                post(async |Raw(bytes): Raw| bytes).layer(small.layer()),
            ),
    )
}

async fn send(request: http::request::Builder, body: impl Into<HttpBodyBox>) -> Response {
    let request = request.body(body.into()).unwrap();
    app().oneshot(request).await.unwrap()
}

async fn text(response: Response) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The `detail` of a problem, whose form is checked on the way.
async fn detail(status: u16, response: Response) -> String {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    let wire: Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(wire["status"], status);
    let title = StatusCode::from_u16(status).unwrap().canonical_reason();
    assert_eq!(wire["title"].as_str(), title);
    wire["detail"].as_str().unwrap().to_owned()
}

async fn post_entry(body: impl Into<HttpBodyBox>) -> Response {
    send(Request::post("/entry"), body).await
}

#[tokio::test]
async fn json_is_taken_without_a_content_type_and_raw_values_survive() {
    let body = r#"{"clientId":"a","data":[{"resource":"r","value":{"x": 1.50}}]}"#;
    let response = post_entry(body).await;
    assert_eq!(text(response).await, r#"a r={"x": 1.50}"#);
}

#[tokio::test]
async fn a_bad_body_is_refused_by_the_name_of_its_field() {
    let item = r#"{"resource":"r","value":0}"#;
    let table = [
        (String::new(), "the body is empty: send a JSON document"),
        ("{".into(), "the body is not JSON: EOF while parsing"),
        ("{}x".into(), "missing field `clientId`"),
        (
            r#"{"clientId":3}"#.into(),
            "clientId: invalid type: integer `3`, expected a string",
        ),
        (
            format!(r#"{{"clientId":"a","data":[{item},{item},{item},{{"resource":[]}}]}}"#),
            "data[3].resource: invalid type: sequence, expected a string",
        ),
        (
            format!(r#"{{"clientId":"a","data":[{item},{{"resource":"r"}}]}}"#),
            "data[1]: missing field `value`",
        ),
        (
            format!(r#"{{"clientId":"a","data":[{item}]}}x"#),
            "the body is not JSON: trailing",
        ),
    ];
    for (body, expected) in table {
        let detail = detail(400, post_entry(body).await).await;
        assert!(detail.starts_with(expected), "{detail}");
    }
    let utf8 = detail(400, post_entry(&b"{\"clientId\":\"\xff\"}"[..]).await).await;
    assert!(utf8.contains("invalid unicode"), "{utf8}");
}

#[tokio::test]
async fn nesting_without_end_is_refused() {
    let deep = send(Request::post("/any"), "[".repeat(100_000)).await;
    let deep = detail(400, deep).await;
    assert!(deep.contains("recursion limit exceeded"), "{deep}");
}

#[tokio::test]
async fn bad_parameters_are_refused_by_name() {
    for (uri, expected) in [
        ("/page?from=x", "query: from: invalid digit"),
        ("/page?from=1&limit=70000", "query: limit: number too large"),
        ("/page", "query: missing field `from`"),
        (
            "/page?FROM=1",
            "query: FROM: there is no such name: write from",
        ),
        ("/page?from=1&form=2", "query: form: unknown field `form`"),
        ("/page?from=1&from=2", "query: duplicate field `from`"),
        ("/instance/x", "path: Cannot parse `x` to a `u64`"),
        ("/instance/%ff", "path: Invalid UTF-8 in `id`"),
        ("/instance/-1", "path: Cannot parse `-1` to a `u64`"),
    ] {
        let detail = detail(400, send(Request::get(uri), "").await).await;
        assert!(detail.starts_with(expected), "{uri}: {detail}");
    }
    let good = send(Request::get("/page?from=7&limit=2"), "").await;
    assert_eq!(text(good).await, "7 Some(2)");
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_problems_too() {
    let unknown = detail(404, send(Request::get("/no\"where"), "").await).await;
    assert!(unknown.contains("/no\"where"), "{unknown}");
    let wrong = send(Request::put("/entry"), "").await;
    assert_eq!(wrong.headers()["allow"], "POST");
    let wrong = detail(405, wrong).await;
    assert!(wrong.starts_with("/entry does not take PUT"), "{wrong}");
    let wrong = send(Request::delete("/page"), "").await;
    assert_eq!(wrong.headers()["allow"], "GET,HEAD");
}

#[tokio::test]
async fn head_answers_as_get_without_the_body() {
    let response = send(Request::head("/page?from=1"), "").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-length"], "6");
    assert_eq!(text(response).await, "");
}

#[tokio::test]
async fn a_body_of_one_mebibyte_is_taken_and_one_byte_more_is_not() {
    let full = vec![b'x'; MAX_BODY_BYTES];
    let taken = send(Request::post("/raw"), full.clone()).await;
    assert_eq!(text(taken).await.len(), MAX_BODY_BYTES);
    let over = [full, vec![b'x']].concat();
    let declared = detail(413, send(Request::post("/raw"), over.clone()).await).await;
    assert_eq!(
        declared,
        "the body is over 1048576 bytes: send less at once"
    );
    // Chunked bodies do not say their length beforehand.
    let chunks: Vec<_> = over.chunks(100_000).map(Bytes::copy_from_slice).collect();
    let chunks = futures::stream::iter(chunks.into_iter().map(Ok::<_, Infallible>));
    let chunked = send(Request::post("/entry"), HttpBodyBox::from_stream(chunks)).await;
    detail(413, chunked).await;
}

#[tokio::test]
async fn a_route_may_have_limits_of_its_own() {
    assert_eq!(send(Request::post("/small"), "1234").await.status(), 200);
    detail(413, send(Request::post("/small"), "12345").await).await;
    let never = HttpBodyBox::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>());
    let late = detail(408, send(Request::post("/small"), never).await).await;
    assert!(
        late.starts_with("the body did not arrive within 20ms"),
        "{late}"
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_is_the_clients_fault() {
    let broken = futures::stream::iter([Err::<Bytes, _>(std::io::Error::other("reset"))]);
    let broken = send(Request::post("/raw"), HttpBodyBox::from_stream(broken)).await;
    assert_eq!(detail(400, broken).await, "the body broke off: reset");
}

#[tokio::test]
async fn retry_after_is_in_whole_seconds_rounded_up() {
    for (millis, seconds) in [(0, "1"), (10, "1"), (1000, "1"), (1001, "2")] {
        let problem = Problem::unavailable("no leader", Duration::from_millis(millis));
        let response = problem.into_response();
        assert_eq!(response.headers()[RETRY_AFTER], seconds);
        assert_eq!(detail(503, response).await, "no leader");
    }
}
