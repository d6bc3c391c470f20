//! Just enough understanding of Rust text for the rules: what is code and what is comment or literal, which lines
//! are tests, where a function begins and ends. Not a parser: it must never refuse a file that compiles.

use std::ops::Range;

/// A file, with what the rules ask of it worked out once.
#[derive(Debug)]
pub struct Source {
    /// Relative to the root, with `/`.
    pub path: String,
    pub text: String,
    /// The text with comments and literals blanked out; same length, same lines. Only for Rust.
    pub code: String,
    /// Byte ranges of `code` that are compiled for tests only.
    tests: Vec<Range<usize>>,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
    pub is_test: bool,
}

impl Source {
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let code = if path.ends_with(".rs") {
            blanked(&text)
        } else {
            String::new()
        };
        let tests = if is_test_file(&path) {
            std::iter::once(0..code.len()).collect()
        } else {
            test_items(&code)
        };
        Self {
            path,
            text,
            code,
            tests,
        }
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The crate that the file is of: the folder under `crates`, or `xtask`.
    pub fn package(&self) -> &str {
        let mut parts = self.path.split('/');
        match parts.next() {
            Some("crates") => parts.next().unwrap_or_default(),
            Some("xtask") => "xtask",
            _ => "",
        }
    }

    pub fn is_build_script(&self) -> bool {
        self.path.ends_with("/build.rs")
    }

    /// Every place in code, outside tests, where `needle` stands as a whole path or word.
    pub fn places(&self, needle: &str) -> Vec<usize> {
        self.places_anywhere(needle)
            .into_iter()
            .filter(|at| !self.is_test(*at))
            .collect()
    }

    /// Every place in code where `needle` stands as a whole path or word, tests included.
    pub fn places_anywhere(&self, needle: &str) -> Vec<usize> {
        let bytes = self.code.as_bytes();
        let starts_word = needle.starts_with(is_word);
        let ends_word = needle.ends_with(is_word);
        let joined = |byte: Option<u8>| byte.is_some_and(|byte| is_word(char::from(byte)));
        let whole = |at: usize| {
            let before = at
                .checked_sub(1)
                .and_then(|before| bytes.get(before))
                .copied();
            let after = bytes.get(at + needle.len()).copied();
            !(starts_word && joined(before) || ends_word && joined(after))
        };
        self.code
            .match_indices(needle)
            .map(|(at, _)| at)
            .filter(|at| whole(*at))
            .collect()
    }

    pub fn is_test(&self, at: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&at))
    }

    pub fn line_of(&self, at: usize) -> usize {
        self.text.as_bytes()[..at.min(self.text.len())]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1
    }

    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for at in self.places_anywhere("fn") {
            let name: String = self.code[at + 2..]
                .trim_start()
                .chars()
                .take_while(|c| is_word(*c))
                .collect();
            if name.is_empty() {
                continue;
            }
            let Some(body) = body_after(&self.code, at) else {
                continue;
            };
            let line = self.line_of(at);
            found.push(Function {
                name,
                line,
                lines: self.line_of(body.end) - line + 1,
                is_test: self.is_test(at),
            });
        }
        found
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Integration tests, benches, examples and files that hold only tests.
fn is_test_file(path: &str) -> bool {
    // A `suite` is what every backend of a trait must pass.
    let folders = ["/tests/", "/benches/", "/fuzz/", "/examples/", "/suite/"];
    folders.iter().any(|folder| path.contains(folder))
        || ["fuzz/", "benches/"]
            .iter()
            .any(|own| path.starts_with(own))
        || path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
}

/// Items behind `#[cfg(test)]`, with their bodies.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    for (at, _) in code.match_indices("#[cfg(test)]") {
        let end = body_after(code, at).map_or_else(|| code.len(), |body| body.end);
        let semicolon = code[at..]
            .find(';')
            .map_or(code.len(), |offset| at + offset);
        let brace = code[at..]
            .find('{')
            .map_or(code.len(), |offset| at + offset);
        ranges.push(at..if semicolon < brace { semicolon } else { end });
    }
    ranges
}

/// The `{…}` that follows, unless a `;` at the same depth comes first.
fn body_after(code: &str, from: usize) -> Option<Range<usize>> {
    let mut depth = 0_usize;
    let mut nested = 0_usize;
    let mut start = None;
    for (offset, byte) in code.as_bytes()[from..].iter().enumerate() {
        let at = from + offset;
        match byte {
            // `[u8; 4]` and `(a, b)` in a signature hold no body.
            b'(' | b'[' if start.is_none() => nested += 1,
            b')' | b']' if start.is_none() => nested = nested.saturating_sub(1),
            b';' if start.is_none() && nested == 0 => return None,
            b'{' if nested == 0 || start.is_some() => {
                start.get_or_insert(at);
                depth += 1;
            }
            b'}' if start.is_some() => {
                depth -= 1;
                if depth == 0 {
                    return start.map(|start| start..at);
                }
            }
            _ => {}
        }
    }
    None
}

/// The same text with comments, strings and characters blanked out.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' | b'b' | b'c' if !follows_word(bytes, at) => match raw_string(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            b'\'' => match character_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    // Only whole literals and comments were replaced, byte for byte, by ASCII.
    String::from_utf8_lossy(&out).into_owned()
}

fn follows_word(bytes: &[u8], at: usize) -> bool {
    at.checked_sub(1)
        .and_then(|before| bytes.get(before))
        .is_some_and(|byte| is_word(char::from(*byte)))
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |offset| at + offset)
}

fn block_comment_end(bytes: &[u8], at: usize) -> usize {
    let mut depth = 0_usize;
    let mut here = at;
    while here < bytes.len() {
        match (bytes[here], bytes.get(here + 1)) {
            (b'/', Some(b'*')) => {
                depth += 1;
                here += 2;
            }
            (b'*', Some(b'/')) => {
                depth -= 1;
                here += 2;
                if depth == 0 {
                    return here;
                }
            }
            _ => here += 1,
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut here = at + 1;
    while here < bytes.len() {
        match bytes[here] {
            b'\\' => here += 2,
            b'"' => return here + 1,
            _ => here += 1,
        }
    }
    bytes.len()
}

/// The end of `r"…"`, `r#"…"#`, `b"…"`, `br#"…"#`, `c"…"`; `None` for a word that only begins alike.
fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let mut here = at;
    if matches!(bytes[here], b'b' | b'c') {
        here += 1;
    }
    let raw = bytes.get(here) == Some(&b'r');
    if raw {
        here += 1;
    }
    let hashes = bytes[here..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    here += hashes;
    if bytes.get(here) != Some(&b'"') || (hashes > 0 && !raw) {
        return None;
    }
    if !raw {
        return Some(string_end(bytes, here));
    }
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let found = bytes[here + 1..]
        .windows(close.len())
        .position(|window| window == close.as_slice());
    Some(found.map_or(bytes.len(), |offset| here + 1 + offset + close.len()))
}

/// The end of `'x'`, `'\n'`, `'\u{…}'`; `None` for a lifetime.
fn character_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let close = bytes[at + 3..].iter().position(|byte| *byte == b'\'')?;
        return Some(at + 3 + close + 1);
    }
    let width = match bytes.get(at + 1)? {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    };
    (bytes.get(at + 1 + width) == Some(&b'\'')).then_some(at + width + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_are_not_code() {
        let check = |text: &str, expected: &str| assert_eq!(blanked(text), expected, "{text}");
        check("a // b\nc", "a     \nc");
        check("a /* b /* c */ d */ e", "a                   e");
        check(r#"f("x\"y", z)"#, "f(      , z)");
        check("r#\"a\"b\"# c", "         c");
        check("br\"a\" c'x'", "      c   ");
        check(r"'\'' x '\u{41}' y", "     x          y");
        check("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)");
        check("bar(\"x\")", "bar(   )");
    }

    #[test]
    fn a_needle_is_found_as_a_whole_word_outside_tests() {
        let text = "fn a() { unsafe_thing(); unsafe {} }\n#[cfg(test)]\nmod tests { fn b() { unsafe {} } }\n";
        let source = Source::new("crates/x/src/lib.rs", text);
        let lines: Vec<_> = source
            .places("unsafe")
            .into_iter()
            .map(|at| source.line_of(at))
            .collect();
        assert_eq!(lines, [1]);
        assert_eq!(source.places_anywhere("unsafe").len(), 2);
        assert_eq!(source.package(), "x");
    }

    #[test]
    fn what_stands_behind_a_test_import_is_not_a_test() {
        let source = Source::new(
            "crates/x/src/lib.rs",
            "#[cfg(test)]\nuse a::b;\nfn c() { unsafe {} }\n",
        );
        assert_eq!(source.places("unsafe").len(), 1);
    }

    #[test]
    fn functions_are_measured_from_their_signature_to_their_brace() {
        let text = "trait T { fn none(&self) -> [u8; 4]; }\nfn one() {}\nasync fn\ntwo(a: [u8; 2])\n{\n}\n";
        let found = Source::new("a.rs", text).functions();
        let told: Vec<_> = found
            .iter()
            .map(|f| (f.name.as_str(), f.line, f.lines))
            .collect();
        assert_eq!(told, [("one", 2, 1), ("two", 3, 4)]);
    }
}
