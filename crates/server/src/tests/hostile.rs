//! Input that no client sends by accident: nothing of it is a fault of the server's.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::json;

use super::site::{GROUP, SUBSCRIPTION, Site, answer, try_start};
use crate::start::ServeError;

#[tokio::test]
async fn bad_requests_are_the_clients_fault() {
    let site = Site::start().await.with_group().await;
    let sub = format!("/subscriptions/{SUBSCRIPTION}");
    let v = "api-version=2026-03-03";
    let long = "a".repeat(300);
    let names = "/a".repeat(40);
    // Method, path with query, body, status, code.
    for (method, path, body, status, code) in [
        (
            "GET",
            format!("{GROUP}?x=1"),
            "",
            400,
            "MissingApiVersionParameter",
        ),
        (
            "GET",
            format!("{GROUP}?api-version="),
            "",
            400,
            "InvalidApiVersionParameter",
        ),
        (
            "GET",
            format!("{GROUP}?api-version=latest"),
            "",
            400,
            "InvalidApiVersionParameter",
        ),
        (
            "GET",
            format!("{GROUP}?api-version=2026-13-01"),
            "",
            400,
            "InvalidApiVersionParameter",
        ),
        (
            "GET",
            format!("{GROUP}/providers/M.X/things/t?{v}"),
            "",
            404,
            "InvalidResourceType",
        ),
        (
            "GET",
            format!("/providers/Microsoft.Compute/galleries?{v}"),
            "",
            404,
            "InvalidResourceType",
        ),
        ("GET", format!("/?{v}"), "", 404, "NotFound"),
        (
            "GET",
            format!("/nothing?{v}"),
            "",
            404,
            "InvalidResourceType",
        ),
        (
            "GET",
            format!("/subscriptions/no-uuid?{v}"),
            "",
            400,
            "BadRequest",
        ),
        (
            "GET",
            format!("{sub}/resourceGroups/a%2fb?{v}"),
            "",
            400,
            "BadRequest",
        ),
        (
            "GET",
            format!("{sub}/resourceGroups/a%00b?{v}"),
            "",
            400,
            "BadRequest",
        ),
        (
            "GET",
            format!("{sub}/resourceGroups/%ff?{v}"),
            "",
            400,
            "BadRequest",
        ),
        (
            "GET",
            format!("{sub}/resourceGroups/%C3%A9?{v}"),
            "",
            400,
            "BadRequest",
        ),
        (
            "GET",
            format!("{sub}/resourceGroups/{long}?{v}"),
            "",
            400,
            "BadRequest",
        ),
        ("GET", format!("{names}?{v}"), "", 400, "BadRequest"),
        (
            "POST",
            format!("{GROUP}?{v}"),
            "{}",
            405,
            "MethodNotAllowed",
        ),
        (
            "PUT",
            format!("{GROUP}?{v}"),
            "{\"location\": \"north\", \"location\": \"south\"}",
            400,
            "InvalidRequestContent",
        ),
        (
            "PUT",
            format!("{GROUP}?{v}"),
            "{\"location\": \"north\", \"tags\": {\"a\": \"1\", \"a\": \"2\"}}",
            400,
            "InvalidRequestContent",
        ),
        (
            "GET",
            format!("{GROUP}?api-version=2026-02-30"),
            "",
            400,
            "InvalidApiVersionParameter",
        ),
        (
            "GET",
            format!("{GROUP}?api-version=2026-01-01-preview%00"),
            "",
            400,
            "InvalidApiVersionParameter",
        ),
        (
            "GET",
            format!("{sub}/resourceGroups/a%5cb?{v}"),
            "",
            400,
            "BadRequest",
        ),
        (
            "GET",
            format!("{sub}/resourceGroups/a%0d%0ab?{v}"),
            "",
            400,
            "BadRequest",
        ),
        (
            "GET",
            format!("{sub}/resourceGroups/%252e%252e?{v}"),
            "",
            400,
            "BadRequest",
        ),
        (
            "PUT",
            format!("{GROUP}/providers/Microsoft.Compute/galleries/bad-name?{v}"),
            "{\"location\": \"north\"}",
            400,
            "InvalidParameter",
        ),
        ("TRACE", format!("{GROUP}?{v}"), "", 405, "MethodNotAllowed"),
        (
            "PUT",
            format!("{GROUP}?{v}"),
            "",
            400,
            "InvalidRequestContent",
        ),
        (
            "PUT",
            format!("{GROUP}?{v}"),
            "{",
            400,
            "InvalidRequestContent",
        ),
        (
            "PUT",
            format!("{GROUP}?{v}"),
            "[]",
            400,
            "InvalidRequestContent",
        ),
        (
            "PUT",
            format!("{GROUP}?{v}"),
            "{} {}",
            400,
            "InvalidRequestContent",
        ),
        (
            "PUT",
            format!("{GROUP}?{v}"),
            "{\"tags\": 1}",
            400,
            "InvalidRequestContent",
        ),
        (
            "PUT",
            format!("{GROUP}?{v}"),
            "{\"location\": \"south\"}",
            409,
            "Conflict",
        ),
        (
            "GET",
            format!("{sub}/resourceGroups?{v}&$top=0"),
            "",
            400,
            "InvalidParameter",
        ),
        (
            "GET",
            format!("{sub}/resourceGroups?{v}&$skiptoken=x"),
            "",
            400,
            "InvalidParameter",
        ),
        (
            "GET",
            format!("{sub}/resourceGroups?{v}&$filter=x"),
            "",
            400,
            "InvalidParameter",
        ),
        (
            "GET",
            format!("{GROUP}?{v}&{}", "a=1&".repeat(40)),
            "",
            400,
            "BadRequest",
        ),
        (
            "GET",
            format!("{GROUP}?{v}&a={}", "a".repeat(9000)),
            "",
            400,
            "BadRequest",
        ),
        (
            "GET",
            format!("{sub}/resourceGroups/absent?{v}"),
            "",
            404,
            "ResourceGroupNotFound",
        ),
        (
            "GET",
            format!("{sub}/resourceGroups/absent/providers/Microsoft.Compute/galleries/g?{v}"),
            "",
            404,
            "ResourceGroupNotFound",
        ),
        (
            "GET",
            format!("{GROUP}/providers/Microsoft.Compute/galleries/g?{v}"),
            "",
            404,
            "ResourceNotFound",
        ),
        (
            "DELETE",
            format!("{sub}/resourceGroups/absent?{v}"),
            "",
            404,
            "ResourceGroupNotFound",
        ),
        (
            "GET",
            format!("/subscriptions/33333333-3333-4333-8333-333333333333?{v}"),
            "",
            404,
            "SubscriptionNotFound",
        ),
        (
            "GET",
            format!("{GROUP}/providers/Bullion.Factory/operations/x?{v}"),
            "",
            404,
            "ResourceNotFound",
        ),
    ] {
        let url = format!("{}{path}", site.running.url);
        let method = method.parse().unwrap();
        let request = site.client.request(method, url).bearer_auth(&site.token);
        let seen = answer(request.body(body)).await;
        assert_eq!(
            (seen.status, seen.code()),
            (status, code),
            "{path} {body}: {:?}",
            seen.body
        );
        assert!(!seen.header("x-ms-request-id").is_empty(), "{path}");
    }
}

#[tokio::test]
async fn what_real_clients_write_carelessly_is_taken() {
    let site = Site::start().await.with_group().await;
    let group = GROUP
        .replace("resourceGroups", "resourcegroups")
        .replace("/factory", "/FACTORY");
    for path in [
        group.clone(),
        format!("{group}/"),
        group.replace("/resourcegroups", "//resourcegroups"),
    ] {
        let seen = site.get(&path).await;
        assert_eq!(seen.status, 200, "{path}");
        assert_eq!(seen.body["id"], GROUP);
    }
    let url = format!("{}{GROUP}?API-Version=2024-11-01", site.running.url);
    assert_eq!(
        answer(site.client.get(url).bearer_auth(&site.token))
            .await
            .status,
        200
    );
    assert_eq!(site.ask("HEAD", GROUP, None).await.status, 204);
    assert_eq!(
        site.ask("HEAD", &format!("{GROUP}x"), None).await.status,
        404
    );
    let seen = answer(
        site.client
            .get(format!("{}/nothing", site.running.url))
            .header("x-ms-client-request-id", "abc"),
    )
    .await;
    assert_eq!(seen.header("x-ms-client-request-id"), "abc");
}

#[tokio::test]
async fn bodies_too_deep_or_too_large() {
    let site = Site::start().await.with_group().await;
    let url = format!("{}{GROUP}?api-version=2024-11-01", site.running.url);
    let put = |body: Vec<u8>| answer(site.client.put(&url).bearer_auth(&site.token).body(body));
    let deep = format!("{{\"tags\": {}", "{\"a\":".repeat(100_000));
    assert_eq!(put(deep.into_bytes()).await.status, 400);
    let request = site.client.put(&url).bearer_auth(&site.token);
    let large = request.header("content-length", (64 * 1024 * 1024).to_string());
    // The answer comes before the body would have been sent.
    let seen = large.body(vec![b' '; 64 * 1024 * 1024]).send().await;
    if let Ok(seen) = seen {
        assert_eq!(seen.status().as_u16(), 413);
    }
    let body = json!({ "location": "north", "tags": { "a": "b".repeat(300) } });
    let seen = site.put(GROUP, body).await;
    assert_eq!((seen.status, seen.code()), (400, "InvalidParameter"));
}

/// Bytes that are not TLS, and headers that never end, cost their own connection and nothing else.
#[tokio::test]
async fn noise_on_the_port_disturbs_nobody() {
    let site = Site::start().await;
    let address = site.running.address;
    tokio::task::spawn_blocking(move || {
        let mut plain = TcpStream::connect(address).unwrap();
        plain
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut rest = Vec::new();
        let _ = plain.read_to_end(&mut rest);
    })
    .await
    .unwrap();
    let url = format!("{}/healthz", site.running.url);
    let mut many = site.client.get(&url);
    for number in 0..200 {
        many = many.header(format!("x-{number}"), "v");
    }
    assert_eq!(answer(many).await.status, 431);
    let large = site.client.get(&url).header("x", "v".repeat(100_000));
    assert_eq!(answer(large).await.status, 431);
    assert_eq!(answer(site.client.get(&url)).await.status, 200);
}

/// Who sends a byte now and then, or nothing after half a request, or closes its half of the connection, keeps nobody else
/// from being served.
#[tokio::test]
async fn slow_and_half_closed_clients_hold_up_nobody() {
    let site = Site::start().await.with_group().await;
    let mut config = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::pem::PemObject::from_pem_slice(site.running.ca.as_bytes());
    config.add(ca.unwrap()).unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(config)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let connect = async || {
        let stream = tokio::net::TcpStream::connect(site.running.address)
            .await
            .unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        connector.connect(name, stream).await.unwrap()
    };
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut held = Vec::new();
    for part in [
        "",
        "G",
        "GET / HTTP/1.1\r\nHost: x\r\n",
        "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    ] {
        for _ in 0..20 {
            let mut stream = connect().await;
            stream.write_all(part.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            held.push(stream);
        }
    }
    assert_eq!(site.get(GROUP).await.status, 200);
    // The whole request, then the end of what the client sends: it is answered all the same.
    let mut stream = connect().await;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    drop(held);
    assert_eq!(site.get(GROUP).await.status, 200);
}

#[tokio::test]
async fn a_start_that_cannot_be_says_why() {
    let site = Site::start().await;
    let refused = try_start(&site.running.data).await.err().unwrap();
    assert!(matches!(refused, ServeError::Data(_)), "{refused:?}");
    let text = crate::errors::chain(&refused);
    assert!(text.contains("in use by another server"), "{text}");

    let dir = tempfile::tempdir().unwrap();
    let mut options = super::site::options(dir.path());
    options.listen = Some(site.running.address);
    let refused = crate::start::start_with(options, super::fake::engine)
        .await
        .err()
        .unwrap();
    let text = crate::errors::chain(&refused);
    assert!(text.contains("--listen"), "{text}");
    assert!(!dir.path().join("admin.json").exists());
}

/// What was stored is there after a stop and a start, and so is who may see it.
#[tokio::test]
async fn a_restart_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::start_in(dir.path()).await.with_group().await;
    let (before, token) = (site.get(GROUP).await.body, site.token.clone());
    let ca = site.running.ca.clone();
    assert!(dir.path().join("server.json").exists());
    for name in ["admin.json", "bullion.db", "bullion.db-wal", "server.json"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(dir.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    site.running.stop().await;
    assert!(!dir.path().join("server.json").exists());

    let site = Site::start_in(dir.path()).await;
    assert_eq!(site.get(GROUP).await.body, before);
    assert_eq!(site.running.ca, ca);
    let seen = site.ask_as(&token, "GET", GROUP, None).await;
    assert_eq!(seen.status, 200, "a token outlives the server that gave it");
}
