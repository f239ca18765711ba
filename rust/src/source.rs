//! A chat template's source as minijinja reads it: what only Jinja2 knows is written otherwise.

/// The method that `[::-1]` becomes.
pub const REVERSED: &str = "__reversed";

/// Jinja2 reads every line ending as "\n". The `generation` block of Transformers only marks text, so it becomes a block that is
/// always taken and, like it, opens no scope. `'...' % value` becomes the filter `format`; `[::-1]`, of which minijinja panics where the
/// list is empty, a method.
pub fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    let mut raw = false;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let kind = if raw && !rest.starts_with("{%") { b' ' } else { *rest.as_bytes().get(1).unwrap_or(&b' ') };
        let end = match kind {
            b'#' => rest.find("#}").map(|e| e + 2),
            b'%' if raw => rest.find("%}").map(|e| e + 2),
            b'%' => end_of(rest, "%}"),
            b'{' => end_of(rest, "}}"),
            _ => Some(1),
        };
        let Some(end) = end else { break };
        let (tag, after) = rest.split_at(end);
        if matches!(kind, b'%' | b'{') {
            out.push_str(&tag_text(tag, &mut raw));
        } else {
            out.push_str(tag);
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn tag_text(tag: &str, raw: &mut bool) -> String {
    let open_bytes = if matches!(tag.as_bytes().get(2), Some(b'-' | b'+')) && tag.len() > 5 { 3 } else { 2 };
    let close_bytes = if matches!(tag.as_bytes()[tag.len() - 3], b'-' | b'+') && tag.len() > open_bytes + 3 { 3 } else { 2 };
    let (open, close) = (&tag[..open_bytes], &tag[tag.len() - close_bytes..]);
    let inner = &tag[open_bytes..tag.len() - close_bytes];
    if open.starts_with("{%") {
        match inner.trim() {
            "raw" => *raw = true,
            "endraw" => *raw = false,
            "generation" if !*raw => return format!("{open} if true {close}"),
            "endgeneration" if !*raw => return format!("{open} endif {close}"),
            _ => {}
        }
    }
    if *raw {
        return tag.to_string();
    }
    format!("{open}{}{close}", percent_as_filter(&reversed_as_method(inner)))
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Word,
    Sign,
}

/// Texts, words (names and numbers) and single signs: (kind, begin, end).
fn tokens(s: &str) -> Vec<(Kind, usize, usize)> {
    let bytes = s.as_bytes();
    let mut out = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        let begin = i;
        let c = bytes[i];
        i += 1;
        if c == b'\'' || c == b'"' {
            while i < bytes.len() && bytes[i] != c {
                i += if bytes[i] == b'\\' { 2 } else { 1 };
            }
            i = (i + 1).min(bytes.len());
            out.push((Kind::Text, begin, i));
        } else if c == b'_' || c.is_ascii_alphanumeric() || c >= 0x80 {
            while i < bytes.len() && (bytes[i] == b'_' || bytes[i].is_ascii_alphanumeric() || bytes[i] >= 0x80) {
                i += 1;
            }
            out.push((Kind::Word, begin, i));
        } else if !c.is_ascii_whitespace() {
            out.push((Kind::Sign, begin, i));
        }
    }
    out
}

/// Behind the sign pair that closes a tag: outside of texts and brackets, as Jinja2's lexer takes it.
fn end_of(s: &str, close: &str) -> Option<usize> {
    let mut depth = 0;
    let body = &s[2..];
    for (kind, begin, _) in tokens(body) {
        if kind != Kind::Sign {
            continue;
        }
        if depth == 0 && body[begin..].starts_with(close) {
            return Some(2 + begin + close.len());
        }
        match body.as_bytes()[begin] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn reversed_as_method(s: &str) -> String {
    let all = tokens(s);
    let text = |i: usize| &s[all[i].1..all[i].2];
    for i in 1..all.len().saturating_sub(5) {
        let applies = all[i - 1].0 != Kind::Sign || matches!(text(i - 1), ")" | "]" | "}");
        if applies && (0..6).all(|j| text(i + j) == ["[", ":", ":", "-", "1", "]"][j]) {
            return format!("{}.{REVERSED}(){}", &s[..all[i].1], reversed_as_method(&s[all[i + 5].2..]));
        }
    }
    s.to_string()
}

/// `'%s of %d' % (a, b)` as `'%s of %d'|format(a, b)`. A left side that is no text is taken for one only where the right side is a tuple.
fn percent_as_filter(s: &str) -> String {
    let all = tokens(s);
    let sign = |i: usize| if i < all.len() && all[i].0 == Kind::Sign { s.as_bytes()[all[i].1] } else { 0 };
    let closing = |from: usize| {
        let mut depth = 0;
        for i in from..all.len() {
            match sign(i) {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(i);
                    }
                }
                _ => {}
            }
        }
        None
    };
    for i in 1..all.len() {
        if sign(i) != b'%' || i + 1 >= all.len() {
            continue;
        }
        let group = if sign(i + 1) == b'(' { closing(i + 1) } else { None };
        let tuple = group.is_some_and(|end| {
            let mut depth = 0;
            (i + 1..end).any(|j| {
                match sign(j) {
                    b'(' | b'[' | b'{' => depth += 1,
                    b')' | b']' | b'}' => depth -= 1,
                    _ => {}
                }
                depth == 1 && sign(j) == b','
            })
        });
        if all[i - 1].0 != Kind::Text && !(tuple && (all[i - 1].0 == Kind::Word || matches!(sign(i - 1), b')' | b']'))) {
            continue;
        }
        // The right side: a value and what is applied to it.
        let mut last = i + 1;
        if matches!(sign(last), b'-' | b'+') {
            last += 1;
        }
        if matches!(sign(last), b'(' | b'[' | b'{') {
            match closing(last) {
                Some(end) => last = end,
                None => return s.to_string(),
            }
        }
        loop {
            match sign(last + 1) {
                b'.' | b'|' if last + 2 < all.len() => last += 2,
                b'(' | b'[' => match closing(last + 1) {
                    Some(end) => last = end,
                    None => return s.to_string(),
                },
                _ => break,
            }
        }
        if last >= all.len() {
            return s.to_string();
        }
        let right = if tuple && group == Some(last) {
            s[all[i + 1].2..all[last].1].trim().trim_end_matches(',')
        } else {
            &s[all[i + 1].1..all[last].2]
        };
        return format!("{}|format({}){}", &s[..all[i - 1].2], percent_as_filter(right), percent_as_filter(&s[all[last].2..]));
    }
    s.to_string()
}
