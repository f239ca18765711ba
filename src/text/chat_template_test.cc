// Templates in the styles of the published model families, rendered as Transformers' own Jinja2 environment rendered them
// (tools/fixtures/text/make_templates.py), byte for byte.
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <map>

#include "base/files.h"

namespace ingot::text {
namespace {

const std::string kFolder = cat(INGOT_SOURCE_DIR, "/tests/fixtures/text/templates");

TokenizerInfo info_with(std::string source) {
  TokenizerInfo info;
  info.chat_template = std::move(source);
  info.bos_token = "<s>";
  info.eos_token = "</s>";
  return info;
}

std::string render(std::string source, const ChatRequest& request) {
  auto t = ChatTemplate::create(info_with(std::move(source)));
  if (!t.ok()) return "parse error: " + t.error().message();
  auto out = (*t)->render(request);
  return out.ok() ? *out : "error: " + out.error().message();
}

TEST(ChatTemplate, EqualsTransformers) {
  setenv("TZ", "UTC", 1);
  tzset();
  const std::string file = join_path(kFolder, "expected.json");
  const Json expected = parse_json(read_file(file).value(), file).value();
  std::map<std::string, std::shared_ptr<const ChatTemplate>> templates;
  int compared = 0;
  for (const Json& c : expected["cases"]) {
    const auto name = c["template"].get<std::string>();
    auto& t = templates[name];
    if (!t) {
      auto made = ChatTemplate::create(info_with(read_file(join_path(kFolder, name + ".jinja")).value()));
      ASSERT_TRUE(made.ok()) << name << ": " << made.error().message();
      t = *made;
    }
    ChatRequest request{.messages = expected["chats"][c["chat"].get<size_t>()], .extra = c["extra"]};
    if (c["tools"].get<bool>()) request.tools = expected["tools"];
    request.add_generation_prompt = c["add_generation_prompt"].get<bool>();
    request.unix_seconds = expected["now"].get<int64_t>();
    auto out = t->render(request);
    const std::string what = cat(name, ", chat ", c["chat"].get<int>(), ", tools ", c["tools"].get<bool>());
    if (c.contains("error")) {
      EXPECT_FALSE(out.ok()) << what << ": want the error '" << c["error"].get<std::string>() << "', got '" << (out.ok() ? *out : "") << "'";
    } else {
      ASSERT_TRUE(out.ok()) << what << ": " << out.error().message();
      EXPECT_EQ(*out, c["want"].get<std::string>()) << what;
    }
    ++compared;
  }
  EXPECT_GE(templates.size(), 14u);
  EXPECT_GE(compared, 400);
}

// As Jinja2 takes them: what stands in raw blocks and comments, numbers that are none.
TEST(ChatTemplate, ReadsSignsThatCloseNothing) {
  EXPECT_EQ(render("{% raw %}{%}{% x {% endraw %}{{ '%s' % 'a' }}", {}), "{%}{% x a");
  EXPECT_EQ(render("{#}{{ '%s' % x }}#}y", {}), "y");
  EXPECT_EQ(render("{{ '%e %g' % ('inf'|float, '-inf'|float) }}", {}), "inf -inf");
  EXPECT_EQ(render("{{ '%s %s' % ('%d' % 1, '%s' % ('a' ~ '%s' % 2,)) }} {{ 'ab'[::-1][::-1] }}", {}), "1 a2 ab");
}

// Chains that a parser follows by recursion end in an error, not in the end of the process.
TEST(ChatTemplate, RefusesChainsWithoutEnd) {
  const auto chain = [](std::string begin, std::string_view link, std::string_view end) {
    for (int i = 0; i < 100000; ++i) begin += link;
    return render(begin.append(end), {});
  };
  for (const char* link : {" + 1", " and 1", "|trim", "'%s' % 1, ", "x[::-1], "})
    EXPECT_NE(chain("{{ 1", link, " }}").find("names and signs; at most 4096"), std::string::npos) << link;
  EXPECT_NE(chain("{% if x %}", "{% elif x %}", "{% endif %}").find("more than 1000 elif"), std::string::npos);
  std::string nested = "{{ ";
  for (int i = 0; i < 600; ++i) nested += "'%s' % (";
  EXPECT_NE(render(nested + "1" + std::string(600, ')') + " }}", {}).find("recursion"), std::string::npos);
  // As long as a tag may be, it is followed to its end.
  for (const char* link : {"not ", "- "}) {
    std::string text = "{{ ";
    for (int i = 0; i < 4000; ++i) text += link;
    EXPECT_EQ(render(text + "1 }}", {}), *link == 'n' ? "True" : "1");
  }
}

// A value as deep as a rendering can make it is compared, hashed and freed; where it would be written, it is refused.
TEST(ChatTemplate, HoldsTheDeepestValue) {
  const auto deep = [](int levels, std::string_view end) {
    return render(cat("{% set ns = namespace(x=0) %}{% for i in range(", levels / 60, ") %}{% set ns.x = ", std::string(60, '['), "ns.x", std::string(60, ']'), " %}{% endfor %}", end), {});
  };
  EXPECT_EQ(deep(1100000, "{{ ns.x == [ns.x] }} {{ ns.x < [ns.x] }} {{ [[ns.x], ns.x]|sort|length }} {{ {ns.x: 1}|length }}"), "False True 2 1");
  EXPECT_NE(deep(1300000, "{{ 1 }}").find("fuel"), std::string::npos);
  for (const char* written : {"'a [{}]'.format(ns.x)", "'{a}'.format(a=ns.x)", "ns.x|pprint", "ns.x|tojson", "ns.x|safe", "ns.x|e", "ns.x|capitalize"})
    EXPECT_NE(deep(1000, cat("{{ ", written, " }}")).find("nested too deep"), std::string::npos) << written;
}

// A text that doubles in a loop is refused before it fills the memory.
TEST(ChatTemplate, RefusesTextsWithoutEnd) {
  for (const char* longer : {"ns.x ~ ns.x", "[ns.x, ns.x]|join(ns.x)", "ns.x|replace(ns.x, ns.x ~ ns.x)"})
    EXPECT_NE(render(cat("{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = ", longer, " %}{% endfor %}"), {}).find("longer than"), std::string::npos) << longer;
  EXPECT_NE(render("{% set x = 'a' * 1000000 %}{% for i in range(100000) %}{{ x }}{% endfor %}", {}).find("longer than"), std::string::npos);
  for (const char* wide : {"'a\nb'|indent(100000000)", "'{:>1000000000}'.format('a')", "'{0[a:}]:}>9999}'.format({'a:}': 1})", "'{:.99999f}'.format(1)", "'%5000d'|format(1)"})
    EXPECT_NE(render(cat("{{ ", wide, " }}"), {}).find("at most 4096"), std::string::npos) << wide;
  for (const char* expanded : {"('\t' * 10000000).expandtabs(4096)", "('%(a)4096d' * 1000000)|format({'a': 1})", "('{0:4096}' * 100000).format(1)", "('{a}' * 1000000).format(a='b' * 1000)"})
    EXPECT_NE(render(cat("{{ ", expanded, "|length }}"), {}).find("longer than"), std::string::npos) << expanded;
  for (const char* written : {"ns.x", "ns.x|tojson"})
    EXPECT_NE(render(cat("{% set ns = namespace(x=['a' * 1000]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ", written, " }}"), {}).find("longer than"), std::string::npos)
        << written;
  EXPECT_EQ(render("{{ '{{\"n\": 99999}} {:>4} {a[b:99999]}'.format('x', a={'b:99999': 2}) }}", {}), "{\"n\": 99999}    x 2");
}

TEST(ChatTemplate, SaysWhatTheTemplateRaised) {
  EXPECT_EQ(render("{{ raise_exception('roles must alternate') }}", {}).find("error: chat template: "), 0u);
  EXPECT_NE(render("{{ raise_exception('roles must alternate') }}", {}).find("roles must alternate"), std::string::npos);
  for (const char* cut : {"rsplit", "partition", "rpartition"})
    EXPECT_NE(render(cat("{{ 'a'.", cut, "('') }}"), {}).find("empty separator"), std::string::npos) << cut;
  EXPECT_NE(render("{% if %}", {}).find("parse error: template 'default': chat template: "), std::string::npos);
  EXPECT_NE(render("{% for x in range(100000) %}{% for y in range(100000) %}{% endfor %}{% endfor %}", {}).find("error: "), std::string::npos);
  EXPECT_NE(render("x", {.messages = "text"}).find("want an array"), std::string::npos);
}

TEST(ChatTemplate, FallsBackByFamily) {
  const Json messages = Json::parse(R"([{"role":"system","content":"S"},{"role":"user","content":"a"},{"role":"assistant","content":"b"},
                                        {"role":"user","content":"c"}])");
  auto fallback = [&](std::string family) {
    TokenizerInfo info = info_with("");
    info.family = std::move(family);
    return ChatTemplate::create(info).value()->render({.messages = messages}).value();
  };
  EXPECT_EQ(fallback("llama2"), "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST]");
  EXPECT_EQ(fallback("chatml"),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_EQ(fallback("baichuan"), "S<reserved_106>a<reserved_107>b<reserved_106>c<reserved_107>");
  EXPECT_EQ(fallback("yuan"), "S<n>a<n>b<n>c<sep>");
  EXPECT_EQ(ChatTemplate::create(info_with("")).error().code(), Code::kUnsupported);
}

TEST(ChatTemplate, ContinuesTheFinalMessage) {
  const std::string source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</{{ m.role }}>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
  const Json messages = Json::parse(R"([{"role":"user","content":"a"},{"role":"assistant","content":" The answer "}])");
  EXPECT_EQ(render(source, {.messages = messages, .continue_final_message = true}), "<user>a</user><assistant>The answer");
  EXPECT_EQ(render(source, {.messages = messages}), "<user>a</user><assistant>The answer</assistant><assistant>");
  EXPECT_NE(render(source, {.continue_final_message = true}).find("no text to continue"), std::string::npos);
}

TEST(ChatTemplate, ExtraVariablesOverrule) {
  EXPECT_EQ(render("{{ a }}{{ bos_token }}{{ add_generation_prompt }}", {.extra = Json::parse(R"({"a": 1, "bos_token": "B"})")}), "1BTrue");
}

}  // namespace
}  // namespace ingot::text
