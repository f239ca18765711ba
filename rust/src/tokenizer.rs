//! A `tokenizers` tokenizer with the bytes of every token, which make decoding a concatenation.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use tokenizers::{NormalizedString, Normalizer, OffsetType, PreTokenizer, Tokenizer};

use crate::charsmap::Charsmap;
use crate::unigram::{self, Unigram};

pub const EXISTS: u32 = 1;
pub const ADDED: u32 = 2;
pub const SPECIAL: u32 = 4;

pub struct Token {
    pub flags: u32,
    pub content: String,
    pub bytes: Vec<u8>,
}

pub struct Tok {
    pub inner: Arc<Tokenizer>,
    pub tokens: Vec<Token>,
    /// The decoder drops one space at the start of a text (sentencepiece's dummy prefix).
    strip_leading_space: bool,
    charsmap: Option<Charsmap>,
    unigram: Option<Unigram>,
}

/// No published vocabulary comes near; keeps a hostile id from asking for memory.
const MAX_VOCABULARY: u32 = 1 << 24;

enum Step {
    Replace(String, String),
    ByteFallback,
    ByteLevel,
    StripEach(char, usize, usize),
    Suffix(String),
}

struct Decoder {
    steps: Vec<Step>,
    fused: bool,
    strip_leading_space: bool,
}

fn string<'a>(v: &'a Value, key: &str) -> Result<&'a str, String> {
    v[key].as_str().ok_or_else(|| format!("tokenizer.json: decoder {} has no text '{key}'", v["type"]))
}

impl Decoder {
    fn add(&mut self, v: &Value) -> Result<(), String> {
        let kind = string(v, "type")?;
        match kind {
            "Sequence" => {
                for d in v["decoders"].as_array().ok_or("tokenizer.json: decoder Sequence has no list 'decoders'")? {
                    self.add(d)?;
                }
            }
            "ByteLevel" => self.steps.push(Step::ByteLevel),
            "ByteFallback" => self.steps.push(Step::ByteFallback),
            "Fuse" => self.fused = true,
            "Replace" => {
                let pattern = v["pattern"]["String"].as_str().ok_or("tokenizer.json: decoder Replace wants a text pattern, not a regular expression")?;
                self.steps.push(Step::Replace(pattern.to_string(), string(v, "content")?.to_string()));
            }
            "Strip" => {
                let content = string(v, "content")?;
                let (start, stop) = (v["start"].as_u64().unwrap_or(0) as usize, v["stop"].as_u64().unwrap_or(0) as usize);
                let mut chars = content.chars();
                let (Some(c), None) = (chars.next(), chars.next()) else {
                    return Err(format!("tokenizer.json: decoder Strip has content '{content}', want one character"));
                };
                if !self.fused {
                    self.steps.push(Step::StripEach(c, start, stop));
                } else if c == ' ' && start <= 1 && stop == 0 {
                    self.strip_leading_space |= start == 1;
                } else {
                    return Err(format!("tokenizer.json: decoder Strip of '{c}' ({start} at the start, {stop} at the end) after Fuse is not supported"));
                }
            }
            "Metaspace" => {
                self.steps.push(Step::Replace(string(v, "replacement")?.to_string(), " ".to_string()));
                self.strip_leading_space |= v["prepend_scheme"].as_str() != Some("never") && v["add_prefix_space"].as_bool() != Some(false);
            }
            "BPEDecoder" => self.steps.push(Step::Suffix(string(v, "suffix")?.to_string())),
            _ => return Err(format!("tokenizer.json: decoder '{kind}' is not supported")),
        }
        Ok(())
    }

    fn bytes(&self, content: &str, map: &HashMap<char, u8>) -> Vec<u8> {
        let mut s = content.to_string();
        for step in &self.steps {
            match step {
                Step::Replace(from, to) => s = s.replace(from.as_str(), to),
                Step::ByteFallback => {
                    if s.len() == 6 && s.starts_with("<0x") && s.ends_with('>') {
                        if let Ok(b) = u8::from_str_radix(&s[3..5], 16) {
                            return vec![b];
                        }
                    }
                }
                Step::ByteLevel => {
                    let bytes: Option<Vec<u8>> = s.chars().map(|c| map.get(&c).copied()).collect();
                    return bytes.unwrap_or_else(|| s.into_bytes());
                }
                Step::StripEach(c, start, stop) => {
                    let chars: Vec<char> = s.chars().collect();
                    let head = chars.iter().take(*start).take_while(|x| *x == c).count();
                    let tail = chars[head..].iter().rev().take(*stop).take_while(|x| *x == c).count();
                    s = chars[head..chars.len() - tail].iter().collect();
                }
                Step::Suffix(suffix) => s = s.replace(suffix.as_str(), " "),
            }
        }
        s.into_bytes()
    }
}

/// GPT-2's printable stand-ins for bytes, inverted: printable Latin-1 stands for itself, the rest for U+0100 upwards.
fn byte_map() -> HashMap<char, u8> {
    let mut map = HashMap::new();
    let mut n = 0u32;
    for b in 0u32..256 {
        let c = if (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b) {
            b
        } else {
            n += 1;
            255 + n
        };
        map.insert(char::from_u32(c).unwrap_or('\0'), b as u8);
    }
    map
}

fn empty_when_normalized(tokenizer: &Tokenizer, content: &str) -> Result<bool, String> {
    let mut text = NormalizedString::from(content);
    if let Some(normalizer) = tokenizer.get_normalizer() {
        normalizer.normalize(&mut text).map_err(|e| format!("tokenizer.json: {e}"))?;
    }
    Ok(text.get().is_empty())
}

impl Tok {
    pub fn new(json: &[u8]) -> Result<Tok, String> {
        let (source, json) = unigram::split(json)?;
        let (charsmap, json) = Charsmap::split(&json)?;
        let mut inner = Tokenizer::from_bytes(&json).map_err(|e| format!("tokenizer.json: {e}"))?;
        // Truncation and padding are the caller's business, never the vocabulary's.
        inner.with_truncation(None).map_err(|e| e.to_string())?;
        inner.with_padding(None);
        let mut decoder = Decoder { steps: Vec::new(), fused: false, strip_leading_space: false };
        match inner.get_decoder() {
            Some(d) => decoder.add(&serde_json::to_value(d).map_err(|e| e.to_string())?)?,
            None => return Err("tokenizer.json: there is no decoder, so text cannot be made from ids".to_string()),
        }
        let map = byte_map();
        let vocabulary = inner.get_vocab(false);
        let added = inner.get_added_tokens_decoder();
        let highest = vocabulary.values().chain(added.keys()).max().copied();
        let count = match highest {
            None => return Err("tokenizer.json: the vocabulary is empty".to_string()),
            Some(h) if h >= MAX_VOCABULARY => return Err(format!("tokenizer.json: token id {h} is too high, at most {} is allowed", MAX_VOCABULARY - 1)),
            Some(h) => h as usize + 1,
        };
        let mut tokens: Vec<Token> = (0..count).map(|_| Token { flags: 0, content: String::new(), bytes: Vec::new() }).collect();
        for (content, id) in vocabulary {
            let bytes = decoder.bytes(&content, &map);
            tokens[id as usize] = Token { flags: EXISTS, content, bytes };
        }
        for (id, token) in &added {
            if token.normalized && empty_when_normalized(&inner, &token.content)? {
                return Err(format!("tokenizer.json: added token {id}, '{}', is nothing when normalised, so it would be found everywhere", token.content));
            }
            // What the normaliser makes of an added token is the form that decoders undo.
            let form = inner.id_to_token(*id).unwrap_or_else(|| token.content.clone());
            let bytes = decoder.bytes(&form, &map);
            let flags = EXISTS | ADDED | if token.special { SPECIAL } else { 0 };
            tokens[*id as usize] = Token { flags, content: token.content.clone(), bytes };
        }
        let unigram = source.map(|source| Unigram::new(&inner, &source)).transpose()?;
        Ok(Tok { inner: Arc::new(inner), tokens, strip_leading_space: decoder.strip_leading_space, charsmap, unigram })
    }

    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, String> {
        let normalized = self.charsmap.as_ref().map(|c| c.normalize(text));
        let text = normalized.as_deref().unwrap_or(text);
        let e = match &self.unigram {
            None => self.inner.encode_fast(text, add_special),
            Some(model) => self.encode_with(model, text, add_special),
        };
        Ok(e.map_err(|e| format!("tokenizer: {e}"))?.get_ids().to_vec())
    }

    /// What the library's encode_fast does, with another model.
    fn encode_with(&self, model: &Unigram, text: &str, add_special: bool) -> tokenizers::Result<tokenizers::Encoding> {
        let mut parts = self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(p) = self.inner.get_pre_tokenizer() {
            p.pre_tokenize(&mut parts)?;
        }
        parts.tokenize(|part| model.tokenize(part.get()).map_err(Into::into))?;
        let encoding = parts.into_encoding(None, 0, OffsetType::None)?;
        self.inner.post_process(encoding, None, add_special)
    }

    /// u32 count, u32 strip_leading_space, then per id: u32 flags, u32 content length, u32 byte length, content, bytes (little endian).
    pub fn vocabulary(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let word = |out: &mut Vec<u8>, v: usize| out.extend_from_slice(&(v as u32).to_le_bytes());
        word(&mut out, self.tokens.len());
        word(&mut out, self.strip_leading_space as usize);
        for t in &self.tokens {
            word(&mut out, t.flags as usize);
            word(&mut out, t.content.len());
            word(&mut out, t.bytes.len());
            out.extend_from_slice(t.content.as_bytes());
            out.extend_from_slice(&t.bytes);
        }
        out
    }
}
