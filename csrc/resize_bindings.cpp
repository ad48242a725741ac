// Python binding of the resizing. It chooses its instructions when it runs, so there is one module.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>

#include "resize/bilinear.hpp"

namespace py = pybind11;

namespace {

using Box = std::array<double, 4>;

// The C data interface of Apache Arrow, in which Pillow lends the memory of an image.
struct ArrowArray {
  std::int64_t length, null_count, offset, n_buffers, n_children;
  const void** buffers;
  ArrowArray **children, *dictionary;
  void (*release)(ArrowArray*);
  void* private_data;
};

py::object resized(const medvlad::Pixels& pixels, const py::tuple& given, std::int64_t side) {
  if (given.size() != 4) throw py::value_error("a box has four ends");
  float box[4];
  for (std::size_t i = 0; i < 4; ++i) box[i] = static_cast<float>(given[i].cast<double>());
  const bool is_inside = box[0] >= 0 && box[1] >= 0 && box[2] > box[0] && box[3] > box[1] &&
                         box[2] <= static_cast<float>(pixels.width) &&
                         box[3] <= static_cast<float>(pixels.height);
  if (!is_inside || side < 1 || side > 1 << 14) throw py::value_error("the box or the side is not possible");
  std::vector<py::ssize_t> shape{side, side};
  if (pixels.n_bytes != 1) shape.push_back(3);
  py::array_t<std::uint8_t> square(shape);
  std::uint8_t* out = square.mutable_data();
  bool is_done = false;
  {
    const py::gil_scoped_release unlocked;
    is_done = medvlad::resize_bilinear(pixels, box, side, out);
  }
  return is_done ? py::object(std::move(square)) : py::none();
}

py::object of_arrow(const py::capsule& lent, std::int64_t width, std::int64_t height, const py::tuple& box,
                    std::int64_t side) {
  if (lent.name() == nullptr || std::string_view(lent.name()) != "arrow_array") {
    throw py::value_error("the capsule holds no array");
  }
  const ArrowArray* array = lent.get_pointer<ArrowArray>();
  if (array->release == nullptr || array->offset != 0 || width < 1 || height < 1 ||
      array->length != width * height) {
    return py::none();
  }
  const bool is_grey = array->n_children == 0;
  const ArrowArray* bytes = is_grey ? array : array->children[0];
  if (bytes->n_buffers != 2 || bytes->offset != 0 || bytes->length != (is_grey ? 1 : 4) * array->length) {
    return py::none();
  }
  return resized({static_cast<const std::uint8_t*>(bytes->buffers[1]), width, height, is_grey ? 1 : 4}, box,
                 side);
}

py::object of_array(const py::array_t<std::uint8_t, py::array::c_style>& pixels, const py::tuple& box,
                    std::int64_t side) {
  if (pixels.ndim() != 3 || pixels.shape(2) != 3) throw py::value_error("pixels must have shape (H, W, 3)");
  return resized({pixels.data(), pixels.shape(1), pixels.shape(0), 3}, box, side);
}

}  // namespace

PYBIND11_MODULE(_resize, module, py::mod_gil_not_used()) {
  module.doc() = "Resizing with Pillow's bilinear filter, to the same numbers.";
  module.def("of_arrow", &of_arrow, py::arg("lent"), py::arg("width"), py::arg("height"), py::arg("box"),
             py::arg("side"), "Resize an image of Pillow. None: it is too small.");
  module.def("of_array", &of_array, py::arg("pixels"), py::arg("box"), py::arg("side"),
             "Resize an array of shape (H, W, 3). None: it is too small.");
}
