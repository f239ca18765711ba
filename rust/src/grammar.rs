//! Masks over the vocabulary from a JSON schema, a regular expression or a Lark grammar (llguidance).

use std::sync::Arc;

use llguidance::{api::TopLevelGrammar, Matcher, ParserFactory};
use tokenizers::Tokenizer;
use toktrie::{TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

use crate::tokenizer::{Tok, EXISTS, SPECIAL};

struct Env {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }
    fn tokenize_bytes(&self, s: &[u8]) -> Vec<u32> {
        self.trie.tokenize_with_greedy_fallback(s, |s| {
            self.tokenizer.encode_fast(s, false).map(|e| e.get_ids().to_vec()).unwrap_or_default()
        })
    }
}

pub struct GrammarFactory {
    factory: ParserFactory,
}

pub struct Grammar {
    matcher: Matcher,
    eos: Vec<u32>,
    /// Committed tokens that were stop ids; they are not the matcher's.
    ended: usize,
}

impl GrammarFactory {
    pub fn new(t: &Tok, stop: &[u32]) -> Result<GrammarFactory, String> {
        let count = t.tokens.len() as u32;
        let stop: Vec<u32> = stop.iter().copied().filter(|s| *s < count).collect();
        if stop.is_empty() {
            return Err("grammar: the tokenizer has no stop id, so a constrained answer could not end".to_string());
        }
        let words: Vec<Vec<u8>> = t
            .tokens
            .iter()
            .enumerate()
            .map(|(i, token)| {
                if token.flags & EXISTS == 0 {
                    Vec::new()
                } else if token.flags & SPECIAL != 0 || stop.contains(&(i as u32)) {
                    let mut v = vec![TokTrie::SPECIAL_TOKEN_MARKER];
                    v.extend_from_slice(token.content.as_bytes());
                    v
                } else {
                    token.bytes.clone()
                }
            })
            .collect();
        let trie = TokTrie::from(&TokRxInfo::new(count, stop[0]), &words).with_eos_tokens(&stop);
        let env: TokEnv = Arc::new(Env { trie, tokenizer: t.inner.clone() });
        let mut factory = ParserFactory::new_simple(&env).map_err(|e| format!("grammar: {e:#}"))?;
        factory.quiet();
        Ok(GrammarFactory { factory })
    }

    pub fn compile(&self, kind: i32, source: &str) -> Result<Grammar, String> {
        let grammar = match kind {
            0 => TopLevelGrammar::from_json_schema(serde_json::from_str(source).map_err(|e| format!("JSON schema: {e}"))?),
            1 => TopLevelGrammar::from_regex(source),
            2 => TopLevelGrammar::from_lark(source.to_string()),
            _ => return Err(format!("grammar: kind {kind} is unknown")),
        };
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        if let Some(e) = matcher.get_error() {
            return Err(e);
        }
        // Unsupported features that llguidance only warns of would silently widen the grammar.
        if let Some(w) = matcher.grammar_warnings().into_iter().next() {
            return Err(w);
        }
        let eos = self.factory.tok_env().tok_trie().eos_tokens().to_vec();
        Ok(Grammar { matcher, eos, ended: 0 })
    }
}

impl Grammar {
    pub fn deep_clone(&self) -> Grammar {
        Grammar { matcher: self.matcher.deep_clone(), eos: self.eos.clone(), ended: self.ended }
    }

    fn allow_end(&self, words: &mut [u32]) {
        for e in &self.eos {
            if let Some(w) = words.get_mut(*e as usize / 32) {
                *w |= 1 << (e % 32);
            }
        }
    }

    pub fn mask(&mut self, words: &mut [u32]) -> Result<(), String> {
        words.fill(0);
        if self.ended > 0 || self.matcher.is_stopped() && !self.matcher.is_error() {
            self.allow_end(words);
            return Ok(());
        }
        let mask = self.matcher.compute_mask_or_eos().map_err(|e| format!("{e:#}"))?;
        let from = mask.as_slice();
        let n = from.len().min(words.len());
        words[..n].copy_from_slice(&from[..n]);
        if self.eos.iter().any(|e| words.get(*e as usize / 32).is_some_and(|w| w >> (e % 32) & 1 == 1)) {
            self.allow_end(words);
        }
        Ok(())
    }

    pub fn commit(&mut self, id: u32) -> Result<(), String> {
        if self.eos.contains(&id) {
            if self.ended == 0 && !self.matcher.is_stopped() && !self.matcher.is_accepting().map_err(|e| format!("{e:#}"))? {
                return Err(format!("grammar: the answer may not end here (token {id})"));
            }
            self.ended += 1;
            return Ok(());
        }
        if self.ended > 0 || self.matcher.is_stopped() {
            return Err(format!("grammar: token {id} comes after the end"));
        }
        // A refused token must leave the matcher usable, so it is tried first.
        if self.matcher.validate_tokens(&[id]).map_err(|e| format!("{e:#}"))? != 1 {
            return Err(format!("grammar: token {id} is not allowed here"));
        }
        self.matcher.consume_token(id).map_err(|e| format!("{e:#}"))
    }

    pub fn rollback(&mut self, tokens: usize) -> Result<(), String> {
        let ends = tokens.min(self.ended);
        self.ended -= ends;
        if tokens > ends {
            self.matcher.rollback(tokens - ends).map_err(|e| format!("{e:#}"))?;
        }
        Ok(())
    }

    pub fn state(&mut self) -> Result<i32, String> {
        if let Some(e) = self.matcher.get_error() {
            return Err(e);
        }
        if self.ended > 0 || self.matcher.is_stopped() {
            return Ok(2);
        }
        Ok(self.matcher.is_accepting().map_err(|e| format!("{e:#}"))? as i32)
    }
}
