//! Bodies of `multipart/form-data` (RFC 7578): some fields, and a payload as a file.

/// Between two parts: a line that no payload is likely to hold.
const BOUNDARY: &str = "windlass-7MA4YWxkTrZu0gW3qJp9";

/// With the boundary of all bodies.
pub(crate) const CONTENT_TYPE: &str = "multipart/form-data; boundary=windlass-7MA4YWxkTrZu0gW3qJp9";

/// The body.
pub(crate) fn body(fields: &[(String, String)], file: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 256);
    let mut part = |head: String, content: &[u8]| {
        out.extend_from_slice(format!("--{BOUNDARY}\r\n{head}\r\n\r\n").as_bytes());
        out.extend_from_slice(content);
        out.extend_from_slice(b"\r\n");
    };
    for (name, value) in fields {
        let head = format!("Content-Disposition: form-data; name=\"{}\"", quoted(name));
        part(head, value.as_bytes());
    }
    let head = format!(
        "Content-Disposition: form-data; name=\"{0}\"; filename=\"{0}\"\r\nContent-Type: application/octet-stream",
        quoted(file)
    );
    part(head, payload);
    out.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    out
}

/// As browsers do (WHATWG HTML, multipart/form-data encoding algorithm).
fn quoted(name: &str) -> String {
    name.replace('"', "%22")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_the_payload_are_parts_of_one_body() {
        let made = body(&[("a\"b".to_owned(), "x".to_owned())], "file", b"{}");
        let text = String::from_utf8(made).unwrap();
        let parts: Vec<&str> = text.split("--windlass-7MA4YWxkTrZu0gW3qJp9").collect();
        assert_eq!(parts.len(), 4, "{text}");
        assert!(parts[1].contains("name=\"a%22b\"\r\n\r\nx\r\n"), "{text}");
        assert!(
            parts[2].contains(
                "filename=\"file\"\r\nContent-Type: application/octet-stream\r\n\r\n{}\r\n"
            )
        );
        assert_eq!(parts[3], "--\r\n");
        assert!(CONTENT_TYPE.ends_with(BOUNDARY));
    }
}
