// Label scans with a compiled student and libtorch alone, no Python.
//
//   label_scan COLUMNS DIVISOR points_40960.pt2 [points_131072.pt2 ...] -- scan.bin labels.bin [scan.bin labels.bin ...]
//
// COLUMNS and DIVISOR are scan.columns and scan.strength_divisor of card.json; a scan is headerless float32, x, y, z [m]
// and strength first. Labels are one int16 class per point. The programs are tried in the order given: a scan that does
// not fit into one goes to the next. A .pt2 file holds compiled code: load only those whose origin you know.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

// One program and what it says of itself: the points of a scan that it has room for.
struct Program {
  std::string path;
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader;
  int64_t capacity;
  torch::Device device;
};

Program load(const std::string& path) {
  const auto begin = path.rfind('_'), end = path.rfind(".pt2");
  if (begin == std::string::npos || end == std::string::npos || end <= begin + 1 ||
      path.find_first_not_of("0123456789", begin + 1) != end)
    fail(path + ": expected points_<capacity>.pt2");
  auto loader = std::make_unique<torch::inductor::AOTIModelPackageLoader>(path);
  const auto metadata = loader->get_metadata();
  const auto entry = metadata.find("AOTI_DEVICE_KEY");
  const bool cuda = entry != metadata.end() && entry->second == "cuda";
  return {path, std::move(loader), std::stoll(path.substr(begin + 1, end - begin - 1)), cuda ? torch::kCUDA : torch::kCPU};
}

// The points (N, 4) of a headerless file.
torch::Tensor read_scan(const std::string& path, int64_t columns, float divisor) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) fail("cannot read " + path);
  const int64_t size = file.tellg(), point = columns * static_cast<int64_t>(sizeof(float));
  if (size == 0 || size % point)
    fail(path + " has " + std::to_string(size) + " bytes, expected a multiple of " + std::to_string(point));
  auto numbers = torch::empty({size / point, columns}, torch::kFloat32);
  file.seekg(0);
  if (!file.read(static_cast<char*>(numbers.data_ptr()), size)) fail("cannot read " + path);
  auto points = numbers.slice(1, 0, 4).clone();
  points.select(1, 3).div_(divisor);
  return points;
}

// Labels of a scan by one program; an undefined tensor where it does not fit.
torch::Tensor run(Program& program, const torch::Tensor& points) {
  const int64_t n = points.size(0);
  if (n > program.capacity) return {};
  auto padded = torch::zeros({program.capacity, 4}, torch::kFloat32);
  padded.slice(0, 0, n).copy_(points);
  const auto count = torch::tensor({n}, torch::kInt64);
  auto outputs = program.loader->run({padded.to(program.device), count.to(program.device)});
  const auto report = outputs.at(1).to(torch::kCPU).contiguous();
  const int64_t* numbers = report.data_ptr<int64_t>();
  const int64_t levels = (report.size(0) - 4) / 2;  // voxels of each, four numbers, capacity of each
  const int64_t *problems = numbers + levels, *rooms = problems + 4;
  if (problems[0]) fail(std::to_string(problems[0]) + " points have values that are not finite: leave them out");
  if (problems[1]) fail(std::to_string(problems[1]) + " points have a strength outside the range of training: scale it");
  if (problems[2] > 65535) fail("the points span " + std::to_string(problems[2]) + " voxels: leave out far outliers");
  for (int64_t level = 0; level < levels; ++level)
    if (numbers[level] > rooms[level]) return {};
  if (problems[3]) fail("the scores of " + std::to_string(problems[3]) + " voxels are not finite");
  return outputs.at(0).slice(0, 0, n).to(torch::kCPU);
}

void write_labels(const std::string& path, const torch::Tensor& labels) {
  const auto classes = labels.to(torch::kInt16).contiguous();
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(classes.data_ptr()), classes.numel() * static_cast<int64_t>(sizeof(int16_t)));
  if (!file.flush()) fail("cannot write " + path);
}

void label(std::vector<Program>& programs, const std::string& scan, const std::string& out, int64_t columns, float divisor) {
  const auto points = read_scan(scan, columns, divisor);
  const auto start = std::chrono::steady_clock::now();
  for (auto& program : programs) {
    const auto labels = run(program, points);
    if (!labels.defined()) continue;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    write_labels(out, labels);
    std::printf("%s: %lld points in %.3f s, %s\n", scan.c_str(), static_cast<long long>(points.size(0)), seconds.count(),
                program.path.c_str());
    return;
  }
  fail(scan + ": " + std::to_string(points.size(0)) + " points, which fit into none of the programs: export a larger one");
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  const auto divider = std::find(words.begin(), words.end(), "--");
  const auto files = words.end() - divider - 1;
  if (divider - words.begin() < 3 || files < 2 || files % 2) {
    std::cerr << "usage: label_scan COLUMNS DIVISOR PROGRAM... -- SCAN LABELS [SCAN LABELS ...]\n";
    return 2;
  }
  try {
    const c10::InferenceMode guard;
    const int64_t columns = std::stoll(words[0]);
    const float divisor = std::stof(words[1]);
    if (columns < 4 || !(divisor > 0)) fail("COLUMNS must be 4 or more, DIVISOR above 0");
    std::vector<Program> programs;
    for (auto word = words.begin() + 2; word != divider; ++word) programs.push_back(load(*word));
    for (auto word = divider + 1; word != words.end(); word += 2)
      label(programs, word[0], word[1], columns, divisor);
  } catch (const std::exception& error) {
    const std::string text = error.what();
    std::cerr << "error: " << text.substr(0, text.find('\n')) << "\n";
    return 2;
  }
  return 0;
}
