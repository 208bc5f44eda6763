// Runs the native engine without Python, for sanitizers: native_driver PLAN FUZZES
// The plan as it is, in every form; then FUZZES damaged copies, each of which must be rejected with a message or run.

#include "engine.cpp"

#include <fstream>
#include <iterator>

namespace {

std::vector<uint8_t> read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// 0: ran, 1: rejected. The bytes are copied to the size that they have, so that reading beyond is noticed.
int drive(const std::vector<uint8_t>& plan, uint64_t rows, int lanes, int threads, bool print) {
  char error[256] = "";
  Engine* engine = nullptr;
  if (s4_open(plan.data(), plan.size(), &engine, error, sizeof error)) {
    if (!error[0]) std::abort();
    return 1;
  }
  Session* session = nullptr;
  if (s4_begin(engine, rows, lanes, threads, &session, error, sizeof error)) std::abort();
  const uint64_t steps = 5, vocab = engine->plan->header.vocab;
  std::vector<int64_t> token(rows, engine->plan->header.bos), out(rows * steps), place(rows);
  std::vector<double> u(rows * steps, 0.37);
  std::vector<float> logits(rows * vocab);
  const Filters keep_all{};
  for (const Filters& f : {keep_all, Filters{0.7, 2, 0.9, 0.01}, Filters{0}}) {
    const int failed = s4_advance(session, token.data(), u.data(), steps, &f, sizeof f, out.data(), error, sizeof error);
    if (failed && !error[0]) std::abort();
    for (int64_t t : out)
      if (t < 0 || t >= static_cast<int64_t>(vocab)) std::abort();
    if (print && !failed) std::printf("%lld ", static_cast<long long>(out.back()));
  }
  s4_feed(session, token.data(), logits.data(), error, sizeof error);
  size_t layers = 0;
  for (const Op& op : engine->plan->ops) layers += Session::lasts(op);
  for (size_t i = 0; i < layers; ++i) {
    const Op& op = session->stateful(i);
    std::vector<float> state(rows * session->outer(op) * session->inner(op));
    s4_state(session, i, state.data(), 0, error, sizeof error);
    s4_state(session, i, state.data(), 1, error, sizeof error);
  }
  s4_places(session, place.data(), 0, error, sizeof error);
  place.back() += 1;  // of the other form's groups it may be the only row
  s4_places(session, place.data(), 1, error, sizeof error);
  s4_advance(session, token.data(), u.data(), steps, &keep_all, sizeof keep_all, out.data(), error, sizeof error);
  std::vector<int64_t> label(rows, static_cast<int64_t>(engine->plan->ops.front().modes));
  if (!s4_labels(session, label.data(), error, sizeof error)) std::abort();
  for (int64_t& each : label) each -= 1;
  s4_labels(session, label.data(), error, sizeof error);
  s4_feed(session, token.data(), logits.data(), error, sizeof error);
  token[0] = static_cast<int64_t>(vocab) + 7;
  if (token[0] != engine->plan->header.bos && !s4_feed(session, token.data(), logits.data(), error, sizeof error))
    std::abort();
  s4_end(session);
  s4_close(engine);
  return 0;
}

}  // namespace

int main(int, char** argv) {
  const std::vector<uint8_t> plan = read(argv[1]);
  for (int lanes : {0, 8, 16, 32})
    for (int threads : {1, 2, 3})
      if (drive(plan, 5, lanes, threads, true)) return 1;
  std::printf("\n");
  uint64_t random = 1;
  auto next = [&](uint64_t n) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    return random % n;
  };
  int rejected = 0;
  const int fuzzes = std::atoi(argv[2]);
  const uint64_t front = sizeof(Header) + sizeof(Op) * reinterpret_cast<const Header*>(plan.data())->n_ops;
  for (int i = 0; i < fuzzes; ++i) {
    std::vector<uint8_t> damaged = plan;
    if (i % 8 == 0) damaged.resize(next(plan.size()));
    for (uint64_t n = 1 + next(3); n-- && !damaged.empty();) {
      const uint64_t at = next(i % 16 == 1 ? damaged.size() : std::min<uint64_t>(front, damaged.size()));
      damaged[at] = next(3) ? static_cast<uint8_t>(next(256)) : damaged[at] ^ (1 << next(8));
    }
    rejected += drive(damaged, 1 + next(4), next(2) ? 8 : 0, 1 + static_cast<int>(next(2)), false);
  }
  std::printf("%d of %d rejected\n", rejected, fuzzes);
  return 0;
}
