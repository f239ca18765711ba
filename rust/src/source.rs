//! A chat template's source as minijinja reads it: what only Jinja2 knows is written otherwise.

/// The method that `[::-1]` becomes.
pub const REVERSED: &str = "__reversed";

const MAX_TOKENS: usize = 4096;
const MAX_ELIFS: usize = 1000;

/// Jinja2 reads every line ending as "\n". The `generation` block of Transformers only marks text, so it becomes a block that is
/// always taken and, like it, opens no scope. `'...' % value` becomes the filter `format`; `[::-1]`, of which minijinja panics where the
/// list is empty, a method.
/// Tags that no template has are refused: minijinja follows their chains by recursion, which would end the process.
pub fn prepare(source: &str) -> Result<String, String> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    let mut raw = false;
    let mut elifs = 0;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let kind = if raw && !ends_raw(rest) { b' ' } else { *rest.as_bytes().get(1).unwrap_or(&b' ') };
        let end = match kind {
            b'#' => rest[2..].find("#}").map(|e| e + 4),
            b'%' => end_of(rest, "%}"),
            b'{' => end_of(rest, "}}"),
            _ => Some(1),
        };
        let Some(end) = end else { break };
        let (tag, after) = rest.split_at(end);
        if matches!(kind, b'%' | b'{') {
            let signs = tokens(tag);
            if signs.len() > MAX_TOKENS {
                return Err(format!("a tag of {} names and signs; at most {MAX_TOKENS}", signs.len()));
            }
            elifs += signs.iter().any(|t| &tag[t.1..t.2] == "elif") as usize;
            if elifs > MAX_ELIFS {
                return Err(format!("more than {MAX_ELIFS} elif"));
            }
            out.push_str(&tag_text(tag, &mut raw));
        } else {
            out.push_str(tag);
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn ends_raw(s: &str) -> bool {
    s.strip_prefix("{%").is_some_and(|s| s.trim_start_matches(['-', '+']).trim_start().starts_with("endraw"))
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
    let mut out = String::with_capacity(s.len());
    let mut copied = 0;
    let mut i = 1;
    while i + 5 < all.len() {
        let applies = all[i - 1].0 != Kind::Sign || matches!(text(i - 1), ")" | "]" | "}");
        if !applies || !(0..6).all(|j| text(i + j) == ["[", ":", ":", "-", "1", "]"][j]) {
            i += 1;
            continue;
        }
        out += &s[copied..all[i].1];
        out += &format!(".{REVERSED}()");
        copied = all[i + 5].2;
        i += 6;
    }
    out + &s[copied..]
}

/// `'%s of %d' % (a, b)` as `'%s of %d'|format(a, b)`. A left side that is no text is taken for one only where the right side is a tuple.
fn percent_as_filter(s: &str) -> String {
    let all = tokens(s);
    let mut open = Vec::new();
    let mut closing = vec![None; all.len()];
    for (i, &(kind, begin, _)) in all.iter().enumerate() {
        match s.as_bytes()[begin] {
            _ if kind != Kind::Sign => {}
            b'(' | b'[' | b'{' => open.push(i),
            b')' | b']' | b'}' => {
                if let Some(o) = open.pop() {
                    closing[o] = Some(i);
                }
            }
            _ => {}
        }
    }
    let mut out = String::with_capacity(s.len());
    let t = Tag { s, all, closing };
    t.write_percent(0, t.all.len(), 0, s.len(), 0, &mut out);
    out
}

/// The inside of a tag; `closing`: of a token that opens a bracket, the one that closes it.
struct Tag<'a> {
    s: &'a str,
    all: Vec<(Kind, usize, usize)>,
    closing: Vec<Option<usize>>,
}

/// Formats within each other's arguments that are written otherwise; the parser refuses far less.
const MAX_NESTED: usize = 200;

impl Tag<'_> {
    fn sign(&self, i: usize) -> u8 {
        if i < self.all.len() && self.all[i].0 == Kind::Sign { self.s.as_bytes()[self.all[i].1] } else { 0 }
    }

    /// Whether a comma stands between the brackets themselves.
    fn is_tuple(&self, open: usize, close: usize) -> bool {
        let mut i = open + 1;
        while i < close {
            if self.sign(i) == b',' {
                return true;
            }
            i = self.closing[i].unwrap_or(i) + 1;
        }
        false
    }

    /// The last token of the value that begins at `from`, with what is applied to it.
    fn value_end(&self, from: usize, end: usize) -> Option<usize> {
        let mut last = if matches!(self.sign(from), b'-' | b'+') { from + 1 } else { from };
        if matches!(self.sign(last), b'(' | b'[' | b'{') {
            last = self.closing[last]?;
        }
        loop {
            match self.sign(last + 1) {
                b'.' | b'|' if last + 2 < end => last += 2,
                b'(' | b'[' => last = self.closing[last + 1]?,
                _ => break,
            }
        }
        if last < end { Some(last) } else { None }
    }

    /// Writes the bytes [from, to), in which the tokens [first, end) lie.
    fn write_percent(&self, first: usize, end: usize, from: usize, to: usize, depth: usize, out: &mut String) {
        let mut copied = from;
        let mut i = first + 1;
        while i + 1 < end && depth < MAX_NESTED {
            let tuple = self.sign(i) == b'%' && self.sign(i + 1) == b'(' && self.closing[i + 1].is_some_and(|close| self.is_tuple(i + 1, close));
            let left = self.all[i - 1].0 == Kind::Text || (tuple && (self.all[i - 1].0 == Kind::Word || matches!(self.sign(i - 1), b')' | b']')));
            let last = if self.sign(i) == b'%' && left { self.value_end(i + 1, end) } else { None };
            let Some(last) = last else {
                i += 1;
                continue;
            };
            *out += &self.s[copied..self.all[i - 1].2];
            *out += "|format(";
            if tuple && self.closing[i + 1] == Some(last) {
                let comma = if self.sign(last - 1) == b',' { 1 } else { 0 };
                self.write_percent(i + 2, last - comma, self.all[i + 2].1, self.all[last - 1 - comma].2, depth + 1, out);
            } else {
                self.write_percent(i + 1, last + 1, self.all[i + 1].1, self.all[last].2, depth + 1, out);
            }
            out.push(')');
            copied = self.all[last].2;
            i = last + 2;
        }
        *out += &self.s[copied..to.max(copied)];
    }
}
